"""Lists decisions page by page and shows one with its evidence."""

from collections.abc import Callable
from typing import Any

import numpy as np

from api.cursor import Cursors
from api.errors import TransactionUnknown
from api.filters import Filters
from api.transactions.repository import TransactionRepository
from api.transactions.schemas import Decision, DecisionDetail, Page
from feature_repo.evidence import evidence
from feature_repo.features import NAMES
from feature_repo.transaction import rfc3339

PATH = "/transactions"


class TransactionService:
    def __init__(
        self,
        repository: TransactionRepository,
        cursors: Cursors,
        artifact_of: Callable[[str], str | None],
    ) -> None:
        self._repository = repository
        self._cursors = cursors
        self._artifact_of = artifact_of

    def page(self, filters: Filters) -> Page:
        query = filters.identity(PATH)
        after = None
        if filters.cursor is not None:
            time, row_id = self._cursors.read(filters.cursor, query)
            after = (str(time), int(row_id))
        rows = self._repository.page(filters, after)
        shown, more = rows[: filters.limit], len(rows) > filters.limit
        following = None
        if more:
            last = shown[-1]
            following = self._cursors.make([rfc3339(last["event_time"]), last["id"]], query)
        return Page(items=[Decision(**presented(row)) for row in shown], next_cursor=following)

    def get(self, transaction_id: str) -> DecisionDetail:
        """Raises TransactionUnknown."""
        row = self._repository.first(transaction_id)
        if row is None:
            raise TransactionUnknown
        version = row["model_version"]
        features = vector(row["features"])
        artifact = self._artifact_of(version) if version is not None else None
        details = {
            "reason_shares": row["reason_shares"] or [],
            "evidence": None if artifact is None else _evidence(row["anomaly_reasons"] or [], features),
            "features": features,
            "artifact_sha256": artifact,
            "seen_before": row["repeats"] > 0,
        }
        return DecisionDetail(**{**presented(row), **details})


def presented(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `decisions` in the words of the schema; what the schema does not name is dropped by it."""
    reasons = row["anomaly_reasons"] or []
    identity = f"{row['kafka_topic']}-{row['kafka_partition']}-{row['kafka_offset']}"
    return {
        **row,
        "amount": float(row["amount"]),
        "anomaly_reason": reasons[0] if reasons else None,
        "anomaly_reasons": reasons,
        "decision_id": identity,
    }


def _evidence(reasons: list[str], features: dict[str, float] | None) -> list[dict[str, Any]] | None:
    """A loaded version's features mean what they mean today, or the model service would have refused it."""
    if features is None or len(features) < len(NAMES):  # decided before a feature was added
        return None
    return [found.as_json() for found in evidence(reasons, features)]


def vector(stored: bytes | None) -> dict[str, float] | None:
    """`decisions.features` by name, each as the shortest decimal of its float32. None where there is none.

    Features are only ever appended to the catalogue, so an old row's are its first ones.
    """
    if stored is None:
        return None
    values = np.frombuffer(bytes(stored), "<f4")
    if not np.isfinite(values).all():
        return None
    return {name: float(str(value)) for name, value in zip(NAMES, values, strict=False)}
