"""Answers to POST /transactions by Idempotency-Key.

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision: str | None = "0013"
branch_labels = None
depends_on = None

KEYS = """
CREATE TABLE idempotency_keys (
    key          text        PRIMARY KEY,
    body_sha256  bytea       NOT NULL,
    token        uuid        NOT NULL,
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    answer       jsonb
);
CREATE INDEX idempotency_keys_claimed_at ON idempotency_keys (claimed_at);

COMMENT ON TABLE idempotency_keys IS 'Requests that named an Idempotency-Key, for a day';
COMMENT ON COLUMN idempotency_keys.key IS 'who asked, and the key';
COMMENT ON COLUMN idempotency_keys.body_sha256 IS 'of content type and body';
COMMENT ON COLUMN idempotency_keys.token IS 'of the request that works on it';
COMMENT ON COLUMN idempotency_keys.answer IS 'null while it is worked on';
"""


def upgrade() -> None:
    op.execute(KEYS)


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
