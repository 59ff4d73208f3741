"""What PostgreSQL keeps of a decision: the vector the score was computed from, and where it came from."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from api.postgres import Database
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from feature_repo.transaction import rfc3339

# The decision that counts, as GET /transactions/{id} finds it; the range it lies in names its features.
_STATEMENT = """
    SELECT d.transaction_id, d.user_id, d.revision,
        d.kafka_topic || '-' || d.kafka_partition || '-' || d.kafka_offset AS decision_id,
        d.amount, d.currency, d.merchant, d.location, d.payment_method, d.event_time, d.processed_at,
        d.outcome, d.unscored_reason, d.anomaly_score, d.decision, d.anomaly_reasons, d.reason_shares,
        d.model_version, d.feature_set_id, d.side_inputs, d.late, d.features, r.feature_names
    FROM decisions_of(%(transaction_id)s) d
    LEFT JOIN LATERAL (
        SELECT feature_names FROM ledger_ranges
        WHERE kafka_topic = d.kafka_topic AND kafka_partition = d.kafka_partition AND first_offset <= d.kafka_offset
        ORDER BY first_offset DESC LIMIT 1) r ON true
    WHERE %(user_id)s::text IS NULL OR d.user_id = %(user_id)s
    ORDER BY d.outcome = 'scored' DESC, d.outcome = 'unscored' DESC, d.ingested_at, d.kafka_partition, d.kafka_offset,
        d.revision DESC
    LIMIT 1
"""


@dataclass(frozen=True)
class Logged:
    """One decision. `features` by name, None where none were computed: a repeat, or another currency."""

    transaction_id: str
    user_id: str
    decision_id: str  # topic, partition and offset of the payment
    revision: int
    amount: float
    currency: str
    merchant: str
    location: str
    payment_method: str
    event_time: datetime
    processed_at: datetime
    outcome: str
    unscored_reason: str | None
    anomaly_score: float | None
    decision: str | None
    anomaly_reasons: list[str]
    reason_shares: list[float]
    model_version: str | None
    feature_set_id: str | None
    side_inputs: str | None  # snapshot of merchants behind the features
    late: bool
    features: dict[str, float] | None

    def as_json(self) -> dict[str, Any]:
        times = {name: rfc3339(getattr(self, name)) for name in ("event_time", "processed_at")}
        return asdict(self) | times


def logged(settings: Settings, transaction_id: str, user_id: str | None = None) -> Logged:
    """The first scored decision of an id, of this user if one is named. Raises BadConfiguration, StoreUnavailable."""
    database = Database(settings.postgres_reader_dsn)
    try:
        found = database.rows(_STATEMENT, {"transaction_id": transaction_id, "user_id": user_id})
    finally:
        database.close()
    if not found:
        whose = f" of user {user_id}" if user_id is not None else ""
        raise BadConfiguration(f"no payment {transaction_id}{whose} was ever decided")
    row, names = found[0], found[0].pop("feature_names")
    return Logged(**{
        **row,
        "amount": float(row["amount"]),
        "anomaly_reasons": row["anomaly_reasons"] or [],
        "reason_shares": row["reason_shares"] or [],
        "features": _by_name(row["features"], names or []),
    })  # fmt: skip


def _by_name(stored: bytes | None, names: list[str]) -> dict[str, float] | None:
    """`decisions.features` by name, each as the shortest decimal of its float32."""
    if stored is None:
        return None
    values = np.frombuffer(bytes(stored), "<f4")
    return {name: float(str(value)) for name, value in zip(names, values, strict=True)}
