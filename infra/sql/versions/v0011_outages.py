"""Switches of the stream, and what keeps each job from its whole work.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision: str | None = "0010"
branch_labels = None
depends_on = None

SWITCHES = """
CREATE TABLE switches (
    name        text        PRIMARY KEY,
    state       text        NOT NULL,
    actor       text        NOT NULL,
    reason      text        NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((name, state) IN (('intake', 'running'), ('intake', 'paused'), ('scoring', 'scored'),
        ('scoring', 'rules-only')))
);
INSERT INTO switches (name, state, actor, reason)
VALUES ('intake', 'running', 'vigil', 'as installed'), ('scoring', 'scored', 'vigil', 'as installed');

COMMENT ON TABLE switches IS 'How each switch stands, read by the stream at every batch; the audit log has its history';
"""
CONDITIONS = """
CREATE TABLE conditions (
    job          text        NOT NULL,
    code         text        NOT NULL,
    component    text        NOT NULL,
    cause        text        NOT NULL,
    remedy       text        NOT NULL,
    since        timestamptz NOT NULL,
    holds_until  timestamptz NOT NULL,
    PRIMARY KEY (job, code)
);
COMMENT ON TABLE conditions IS 'What keeps a job from its whole work, as it last said; vigil status and GET /ready';
COMMENT ON COLUMN conditions.holds_until IS 'past it the job has fallen silent; infinity for what ended it';
"""


def upgrade() -> None:
    op.execute(SWITCHES)
    op.execute(CONDITIONS)


def downgrade() -> None:
    op.execute("DROP TABLE switches, conditions")
