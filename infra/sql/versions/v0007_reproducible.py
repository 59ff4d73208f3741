"""What decisions and trainings were made of can be found again: snapshots by id, labels in the order they came in.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels = None
depends_on = None

MERCHANT_SNAPSHOTS = """
CREATE TABLE merchant_snapshots (
    id            text        PRIMARY KEY,
    effective_at  timestamptz NOT NULL,
    content       bytea       NOT NULL,
    published_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE merchant_snapshots IS 'Every snapshot of merchants that was ever current; appended, never changed';
COMMENT ON COLUMN merchant_snapshots.id IS 'hash of content, as decisions.side_inputs names it';
COMMENT ON COLUMN merchant_snapshots.content IS 'feature_repo.snapshot.Snapshot.to_bytes: 24 bytes a merchant';
"""

# Whoever reads labels sees all that were received up to the newest it sees: writers come one after the other, and
# received_at is taken once it is their turn. With now(), the beginning of a transaction, a label could come to light
# behind one that a training had read already. The lock is let go after the commit.
LABELS = """
ALTER TABLE labels ALTER COLUMN received_at SET DEFAULT clock_timestamp();
CREATE FUNCTION labels_one_after_the_other() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('labels'));
    RETURN NULL;
END
$body$;
CREATE TRIGGER labels_one_after_the_other BEFORE INSERT ON labels
    FOR EACH STATEMENT EXECUTE FUNCTION labels_one_after_the_other();
COMMENT ON COLUMN labels.received_at IS 'when we were told; who sees a label sees all that were received before it';
"""


def upgrade() -> None:
    op.execute(MERCHANT_SNAPSHOTS)
    op.execute(LABELS)


def downgrade() -> None:
    op.execute("DROP TRIGGER labels_one_after_the_other ON labels")
    op.execute("DROP FUNCTION labels_one_after_the_other")
    op.execute("ALTER TABLE labels ALTER COLUMN received_at SET DEFAULT now()")
    op.execute("DROP TABLE merchant_snapshots")
