"""Placements: how many partitions a payments topic had since when, and how users were placed on them.

`begins` is, by partition, the first offset that was decided under the placement; 0 where none is named. A row without
`finished_at` is a growth that was begun and has to be run again to its end.

Revision ID: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision: str | None = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE placements (
            kafka_topic text NOT NULL,
            partitions integer NOT NULL CHECK (partitions > 0),
            partitioner text NOT NULL,
            begins jsonb NOT NULL DEFAULT '{}',
            begun_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            PRIMARY KEY (kafka_topic, partitions)
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE placements")
