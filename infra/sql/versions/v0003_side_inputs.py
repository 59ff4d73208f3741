"""Which snapshot of merchants the features of a decision were computed with.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels = None
depends_on = None

SIDE_INPUTS = """
ALTER TABLE decisions ADD COLUMN side_inputs text;
COMMENT ON COLUMN decisions.side_inputs IS
    'id of the snapshot of merchants behind the features; null without features and where no snapshot was made';
"""


def upgrade() -> None:
    op.execute(SIDE_INPUTS)


def downgrade() -> None:
    op.execute("ALTER TABLE decisions DROP COLUMN side_inputs")
