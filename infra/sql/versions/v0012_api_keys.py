"""Keys of the query service.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision: str | None = "0011"
branch_labels = None
depends_on = None

KEYS = """
CREATE TABLE api_keys (
    id            text        PRIMARY KEY,
    digest        bytea       NOT NULL CHECK (length(digest) = 32),
    name          text        NOT NULL,
    scopes        text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text        NOT NULL,
    expires_at    timestamptz,
    last_used_at  timestamptz,
    revoked_at    timestamptz,
    revoked_by    text,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);

COMMENT ON TABLE api_keys IS 'Who may use the query service; never deleted, as the audit log names them';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of a secret of 256 random bits; the secret itself is kept nowhere';
COMMENT ON COLUMN api_keys.scopes IS 'what it may do: api/scopes.py';
COMMENT ON COLUMN api_keys.last_used_at IS 'to within some seconds: workers note it together';
"""


def upgrade() -> None:
    op.execute(KEYS)


def downgrade() -> None:
    op.execute("DROP TABLE api_keys")
