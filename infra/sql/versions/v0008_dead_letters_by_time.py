"""Dead letters in the order they came: to list the newest page by page, and to drop the oldest.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX dead_letters_newest ON dead_letters (ingested_at, kafka_partition, kafka_offset)")
    op.execute("DROP INDEX dead_letters_ingested_at")


def downgrade() -> None:
    op.execute(
        "CREATE INDEX dead_letters_ingested_at ON dead_letters USING brin (ingested_at) WITH (autosummarize = on)"
    )
    op.execute("DROP INDEX dead_letters_newest")
