"""Payments per merchant and day, for the daily snapshots: a day is counted once, after it ended.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels = None
depends_on = None

MERCHANT_DAYS = """
CREATE TABLE merchant_days (
    day            date        NOT NULL,
    merchant       text        NOT NULL,
    payments       bigint      NOT NULL CHECK (payments > 0),
    first_arrival  timestamptz NOT NULL,
    PRIMARY KEY (day, merchant)
);
COMMENT ON TABLE merchant_days IS 'Decided payments by merchant and UTC day of the broker''s timestamp';
COMMENT ON COLUMN merchant_days.payments IS 'without duplicates';
COMMENT ON COLUMN merchant_days.first_arrival IS 'that day; the earliest of all is when the stream began';
"""


def upgrade() -> None:
    op.execute(MERCHANT_DAYS)


def downgrade() -> None:
    op.execute("DROP TABLE merchant_days")
