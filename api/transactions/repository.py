"""Decisions in PostgreSQL."""

from typing import Any

from api.filters import Filters
from api.postgres import Database

SHOWN = """d.id, d.transaction_id, d.user_id, d.amount, d.currency, d.event_time, d.merchant, d.location,
    d.payment_method, d.outcome, d.unscored_reason, d.anomaly_score, d.is_anomaly, d.anomaly_reasons, d.decision,
    d.model_version, d.feature_set_id, d.ruleset_version, d.late, d.processed_at, d.revision, d.ingested_at,
    d.kafka_topic, d.kafka_partition, d.kafka_offset"""

# Only unscored decisions are ever followed by a higher revision, so only those are looked up again.
CURRENT = """(d.outcome <> 'unscored' OR NOT EXISTS (
    SELECT FROM decisions later
    WHERE later.transaction_id = d.transaction_id AND later.kafka_topic = d.kafka_topic
      AND later.kafka_partition = d.kafka_partition AND later.kafka_offset = d.kafka_offset
      AND later.revision > d.revision))"""

CONDITIONS = {
    "user_id": "d.user_id = %(user_id)s",
    "since": "d.event_time >= %(since)s",
    "until": "d.event_time < %(until)s",
    "min_amount": "d.amount >= %(min_amount)s",
    "max_amount": "d.amount <= %(max_amount)s",
    "is_anomaly": "d.is_anomaly = %(is_anomaly)s",
    "model_version": "d.model_version = %(model_version)s",
    "decision": "d.decision = %(decision)s",
    "outcome": "d.outcome = %(outcome)s",
}


class TransactionRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, filters: Filters, after: tuple[str, int] | None) -> list[dict[str, Any]]:
        """At most `limit + 1` decisions, newest event time first; `after` is (event_time, id) of the last seen."""
        values = {name: getattr(filters, name) for name in CONDITIONS}
        conditions = [CURRENT, *(CONDITIONS[name] for name, value in values.items() if value is not None)]
        if filters.outcome is None:
            conditions.append("d.outcome <> 'duplicate'")
        if after is not None:
            conditions.append("(d.event_time, d.id) < (%(after_time)s::timestamptz, %(after_id)s)")
            values |= {"after_time": after[0], "after_id": after[1]}
        return self._database.rows(
            f"SELECT {SHOWN} FROM decisions d WHERE {' AND '.join(conditions)}"
            " ORDER BY d.event_time DESC, d.id DESC LIMIT %(rows)s",
            {**values, "rows": filters.limit + 1},
        )

    def first(self, transaction_id: str) -> dict[str, Any] | None:
        """The first scored decision of an id in its newest revision, else the first one without a score."""
        found = self._database.rows(
            f"""SELECT {SHOWN}, d.reason_shares, d.features, d.side_inputs, d.challenger_version, d.challenger_score,
                (SELECT count(*) FROM decisions other
                 WHERE other.transaction_id = d.transaction_id AND other.outcome = 'duplicate') AS repeats
            FROM decisions d WHERE d.transaction_id = %s
            ORDER BY d.outcome = 'scored' DESC, d.outcome = 'unscored' DESC, d.ingested_at, d.kafka_partition,
                d.kafka_offset, d.revision DESC
            LIMIT 1""",
            [transaction_id],
        )
        return found[0] if found else None
