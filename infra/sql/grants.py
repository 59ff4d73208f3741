"""What each role may do. Applied after every upgrade, so a role made later gets its rights too.

The writer appends: it cannot change or delete a decision. The reader reads.
"""

WRITER = "vigil_writer"
READER = "vigil_reader"

GRANTS: dict[str, tuple[str, ...]] = {
    WRITER: (
        "SELECT, INSERT ON decisions, dead_letters, audit",
        "SELECT, INSERT, UPDATE ON ledger",
        "SELECT, INSERT, UPDATE (published_at) ON ledger_ranges",
        "SELECT, INSERT, UPDATE, DELETE ON parked_documents",
        "SELECT, INSERT, UPDATE ON promotion_requests",
        "SELECT, INSERT ON labels, merchant_snapshots",
        "SELECT, INSERT, UPDATE (last_used_at, revoked_at, revoked_by) ON api_keys",
        "SELECT, INSERT, UPDATE, DELETE ON idempotency_keys",
        "SELECT, INSERT, UPDATE (finished_at) ON placements",
        "SELECT, INSERT, DELETE ON merchant_days",
        "SELECT, INSERT, UPDATE, DELETE ON payment_windows",
        "SELECT, INSERT, UPDATE ON window_progress",
        "SELECT, UPDATE ON switches",
        "SELECT, INSERT, UPDATE, DELETE ON conditions",
        "SELECT ON alembic_version",
        "EXECUTE ON FUNCTION ensure_decision_partitions(date, integer), seal_decision_partition(date)",
    ),
    READER: (
        "SELECT ON decisions, dead_letters, audit, ledger, ledger_ranges, parked_documents, alembic_version",
        "SELECT ON promotion_requests, labels, merchant_days, merchant_snapshots, payment_windows, window_progress",
        "SELECT ON switches, conditions, api_keys, placements",
    ),
}


def statements(existing_roles: set[str]) -> list[str]:
    """GRANT statements for those of our roles that exist in the server; all are idempotent."""
    return [f"GRANT {grant} TO {role}" for role, grants in GRANTS.items() if role in existing_roles for grant in grants]
