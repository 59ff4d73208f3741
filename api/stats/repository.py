"""Counts of decisions, in PostgreSQL."""

from datetime import datetime
from typing import Any

from api.postgres import Database
from api.transactions.repository import CURRENT, earliest

COUNTS = f"""SELECT date_trunc('hour', d.event_time) AS hour, d.outcome, d.decision, d.model_version, d.is_anomaly,
    d.anomaly_reasons, count(*) AS decisions
FROM decisions d
WHERE d.event_time >= %(since)s AND d.event_time < %(until)s AND d.ingested_at >= %(arrived)s
  AND d.outcome <> 'duplicate' AND {CURRENT}
GROUP BY 1, 2, 3, 4, 5, 6"""


class StatsRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Decisions by hour of event time, outcome, decision, version, anomaly and reasons."""
        return self._database.rows(COUNTS, {"since": since, "until": until, "arrived": earliest(since)})
