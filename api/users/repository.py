"""What decisions and labels say of a user, in PostgreSQL."""

from datetime import datetime
from typing import Any

from api.postgres import Database

FLAGGED = """SELECT max(event_time) AS at FROM decisions
    WHERE user_id = %(user_id)s AND is_anomaly AND event_time >= %(since)s"""
REPORTED = """SELECT max(label_time) AS at FROM (
        SELECT DISTINCT ON (l.transaction_id) l.is_fraud, l.label_time
        FROM decisions d JOIN labels l USING (transaction_id)
        WHERE d.user_id = %(user_id)s AND d.outcome <> 'duplicate' AND d.event_time >= %(since)s
        ORDER BY l.transaction_id, l.label_time DESC, l.received_at DESC
    ) newest WHERE is_fraud"""


class UserRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def flagged(self, user_id: str, since: datetime) -> datetime | None:
        """Newest anomaly."""
        return self._at(FLAGGED, user_id, since)

    def reported(self, user_id: str, since: datetime) -> datetime | None:
        """Newest label that says fraud and was not taken back, of a payment since then."""
        return self._at(REPORTED, user_id, since)

    def _at(self, statement: str, user_id: str, since: datetime) -> datetime | None:
        values: dict[str, Any] = {"user_id": user_id, "since": since}
        at: datetime | None = self._database.rows(statement, values)[0]["at"]
        return at
