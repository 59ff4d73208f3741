"""Payments over time by merchant, payment method and user.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels = None
depends_on = None

# A row is updated with every batch of its minute: free space in its page lets the update stay there (HOT).
WINDOWS = """
CREATE TABLE payment_windows (
    id          bigint        GENERATED ALWAYS AS IDENTITY,
    kind        text          NOT NULL CHECK (kind IN ('merchant', 'payment_method', 'user')),
    key         text          NOT NULL,
    started_at  timestamptz   NOT NULL,
    ended_at    timestamptz   NOT NULL CHECK (ended_at > started_at),
    payments    bigint        NOT NULL CHECK (payments > 0),
    scored      bigint        NOT NULL,
    flagged     bigint        NOT NULL,
    amount      numeric(28,4) NOT NULL,
    PRIMARY KEY (kind, key, ended_at)
) WITH (fillfactor = 80);
CREATE INDEX payment_windows_newest ON payment_windows (kind, ended_at, id);

COMMENT ON TABLE payment_windows IS
    'Decided payments in the configured currency: minutes of merchants and payment methods, bursts of users';
COMMENT ON COLUMN payment_windows.started_at IS 'of a burst: its first payment';
COMMENT ON COLUMN payment_windows.ended_at IS 'of a burst: its last payment and the pause that ended it';
COMMENT ON COLUMN payment_windows.payments IS 'without duplicates and late ones';
COMMENT ON COLUMN payment_windows.flagged IS 'of the scored: anomalies';
COMMENT ON COLUMN payment_windows.amount IS 'sum';

CREATE TABLE window_progress (
    query       text        PRIMARY KEY,
    run         uuid        NOT NULL,
    batch       bigint      NOT NULL,
    watermark   timestamptz NOT NULL,
    late        bigint      NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE window_progress IS 'How far each query of windows is';
COMMENT ON COLUMN window_progress.run IS 'of the checkpoint';
COMMENT ON COLUMN window_progress.watermark IS 'windows that end before it change no more';
COMMENT ON COLUMN window_progress.late IS 'payments behind the watermark, not counted, in this run';
"""


def upgrade() -> None:
    op.execute(WINDOWS)


def downgrade() -> None:
    op.execute("DROP TABLE payment_windows, window_progress")
