"""What is asked of the lifecycle worker, and labels as they arrive.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None

# A worker holds the row's lock while it works: when it dies, the row is free again without anybody's doing.
REQUESTS = """
CREATE TABLE promotion_requests (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    token           uuid        UNIQUE,
    actor           text        NOT NULL,
    action          text        NOT NULL CHECK (action IN ('promote', 'rollback', 'threshold')),
    model_name      text        NOT NULL,
    version         text,
    data            text,
    override        text,
    alert_budget    double precision CHECK (alert_budget > 0 AND alert_budget < 1),
    tries           integer     NOT NULL DEFAULT 0,
    started_at      timestamptz,
    aliases_before  jsonb,
    finished_at     timestamptz,
    outcome         text        CHECK (outcome IN ('moved', 'unchanged', 'refused', 'failed')),
    code            text,
    detail          text,
    aliases_after   jsonb,
    window_from     date,
    window_to       date,
    report          jsonb,
    CHECK ((finished_at IS NULL) = (outcome IS NULL)),
    CHECK (action = 'rollback' OR version IS NOT NULL),
    CHECK ((action = 'threshold') = (alert_budget IS NOT NULL))
);
CREATE INDEX promotion_requests_waiting ON promotion_requests (id) WHERE finished_at IS NULL;
CREATE INDEX promotion_requests_version ON promotion_requests (model_name, version, id);

COMMENT ON TABLE promotion_requests IS 'Asked for by people, done by the lifecycle worker: moves of the aliases';
COMMENT ON COLUMN promotion_requests.token IS 'of one call to the API, so that a repeated statement asks once';
COMMENT ON COLUMN promotion_requests.version IS 'as asked for; once worked on, its number';
COMMENT ON COLUMN promotion_requests.data IS 'data set the gate judges on';
COMMENT ON COLUMN promotion_requests.override IS 'reason to promote past failing checks that are not of integrity';
COMMENT ON COLUMN promotion_requests.tries IS 'how often it was begun; more than one where a worker died';
COMMENT ON COLUMN promotion_requests.aliases_before IS 'when it was first begun, so that a second try moves the same';
COMMENT ON COLUMN promotion_requests.report IS 'the gate''s: checks, numbers, curves, slices';

ALTER TABLE audit ADD COLUMN request_id bigint;
COMMENT ON COLUMN audit.request_id IS 'promotion_requests.id, where the report is; null for anything else';
"""

LABELS = """
CREATE TABLE labels (
    transaction_id  text        NOT NULL,
    label_time      timestamptz NOT NULL,
    source          text        NOT NULL,
    is_fraud        boolean     NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (transaction_id, label_time, source)
);
CREATE INDEX labels_received_at ON labels USING brin (received_at) WITH (autosummarize = on);

COMMENT ON TABLE labels IS 'What was learnt of payments and when; appended, a later label of a payment counts';
COMMENT ON COLUMN labels.label_time IS 'when it was learnt, as the source says';
COMMENT ON COLUMN labels.source IS 'who says so: an import, an analyst, a card scheme';
"""


def upgrade() -> None:
    op.execute(REQUESTS)
    op.execute(LABELS)


def downgrade() -> None:
    op.execute("DROP TABLE labels, promotion_requests")
    op.execute("ALTER TABLE audit DROP COLUMN request_id")
