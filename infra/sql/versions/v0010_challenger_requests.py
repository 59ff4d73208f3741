"""The challenger can be asked for like the champion: action `challenger`, without a version to end the trial.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels = None
depends_on = None

CHECKS = """
ALTER TABLE promotion_requests
    DROP CONSTRAINT promotion_requests_action_check,
    DROP CONSTRAINT promotion_requests_check1,
    ADD CONSTRAINT promotion_requests_action_check CHECK (action IN ({actions})),
    ADD CONSTRAINT promotion_requests_check1 CHECK (action IN ({without_version}) OR version IS NOT NULL)
"""


def upgrade() -> None:
    actions = "'promote', 'rollback', 'threshold', 'challenger'"
    op.execute(CHECKS.format(actions=actions, without_version="'rollback', 'challenger'"))


def downgrade() -> None:
    op.execute("DELETE FROM promotion_requests WHERE action = 'challenger'")
    op.execute(CHECKS.format(actions="'promote', 'rollback', 'threshold'", without_version="'rollback'"))
