"""Snapshots of merchants by id, so that what a decision's `side_inputs` names can be read for good.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels = None
depends_on = None

MERCHANT_SNAPSHOTS = """
CREATE TABLE merchant_snapshots (
    id            text        PRIMARY KEY,
    effective_at  timestamptz NOT NULL,
    content       bytea       NOT NULL,
    published_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE merchant_snapshots IS 'Every snapshot of merchants that was ever current; appended, never changed';
COMMENT ON COLUMN merchant_snapshots.id IS 'hash of content, as decisions.side_inputs names it';
COMMENT ON COLUMN merchant_snapshots.content IS 'feature_repo.snapshot.Snapshot.to_bytes: 24 bytes a merchant';
"""


def upgrade() -> None:
    op.execute(MERCHANT_SNAPSHOTS)


def downgrade() -> None:
    op.execute("DROP TABLE merchant_snapshots")
