"""What the challenger says of a payment, beside what the champion decided.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels = None
depends_on = None

CHALLENGER = """
ALTER TABLE decisions ADD COLUMN challenger_version text, ADD COLUMN challenger_score real;
COMMENT ON COLUMN decisions.challenger_version IS
    'version of the score beside it; null where alias challenger named none, or it did not answer';
COMMENT ON COLUMN decisions.challenger_score IS 'calibrated, 0 to 1, of the same features; decides nothing';
"""


def upgrade() -> None:
    op.execute(CHALLENGER)


def downgrade() -> None:
    op.execute("ALTER TABLE decisions DROP COLUMN challenger_version, DROP COLUMN challenger_score")
