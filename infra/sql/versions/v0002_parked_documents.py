"""Documents Elasticsearch refused, so that the ids of both stores can be compared.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None

PARKED = """
CREATE TABLE parked_documents (
    decision_id  text        NOT NULL,
    revision     smallint    NOT NULL,
    code         text        NOT NULL,
    reason       text        NOT NULL,
    parked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (decision_id, revision)
);
COMMENT ON TABLE parked_documents IS 'Documents that could not be indexed, and why';
COMMENT ON COLUMN parked_documents.decision_id IS
    'TOPIC-PARTITION-OFFSET of the payment; of the message, with revision 0, where code is NOT_A_DECISION';
COMMENT ON COLUMN parked_documents.code IS 'type of the error Elasticsearch gave, or NOT_A_DECISION';
COMMENT ON COLUMN parked_documents.reason IS 'its reason, without the value it complains about';
"""


def upgrade() -> None:
    op.execute(PARKED)


def downgrade() -> None:
    op.execute("DROP TABLE parked_documents")
