"""Explains a stored decision with the model that made it."""

from collections.abc import Callable
from typing import Any

from api.errors import NotScored, TransactionUnknown
from api.explain.schemas import Explanation
from api.transactions.repository import TransactionRepository
from api.transactions.service import found, presented, vector
from feature_repo.features import CATALOGUE

DECLARED = {feature.name: feature for feature in CATALOGUE}


class ExplainService:
    """`ask` is ModelService.explain."""

    def __init__(
        self, repository: TransactionRepository, ask: Callable[[dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        self._repository = repository
        self._ask = ask

    def explain(self, transaction_id: str) -> Explanation:
        """Blocks. Raises TransactionUnknown, NotScored, StoreUnavailable, DependencyDown."""
        row = self._repository.first(transaction_id)
        if row is None:
            raise TransactionUnknown
        features = vector(row["features"])
        if row["outcome"] != "scored" or features is None:
            raise NotScored(row["unscored_reason"] or row["outcome"])
        reasons = row["anomaly_reasons"] or []
        explained = self._ask(
            {
                "model_version": row["model_version"],
                "feature_set_id": row["feature_set_id"],
                "features": features,
                "reasons": reasons,
            }
        )
        model = explained or {}
        return Explanation(
            **{
                **presented(row),
                "evidence": (explained and found(reasons, features)) or [],
                "artifact_sha256": model.get("artifact_sha256"),
                "threshold": model.get("threshold"),
                "features": explained and parts(explained["features"]),
                "what_if": model.get("what_if"),
            }
        )


def parts(columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The model's columns with what the catalogue says of each, largest contribution first."""
    described = []
    for column in sorted(columns, key=lambda column: -column["contribution"]):
        feature = DECLARED[column["name"]]
        described.append(
            {**column, "window": feature.window, "meaning": feature.meaning, "reason": feature.reason.value}
        )
    return described
