"""A score taken apart: which column says how much, and what the same model says of the payment were it usual."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo import features
from feature_repo.errors import FeatureInvalid, FeatureSetMismatch, ParameterInvalid
from feature_repo.features import Reason
from feature_repo.usual import usual
from serving.artifact import Artifact
from serving.reference import Histogram


@dataclass(frozen=True)
class Question:
    """The features a decision was made from, by name, and the reasons that were given for it."""

    model_version: str
    feature_set_id: str
    features: dict[str, float]
    reasons: list[Reason]

    @classmethod
    def parse(cls, body: bytes) -> "Question":
        """From a sibling of ours: raises ParameterInvalid where it is not what `explained` needs."""
        try:
            asked = json.loads(body)
            return cls(
                str(asked["model_version"]),
                str(asked["feature_set_id"]),
                {str(name): float(value) for name, value in asked["features"].items()},
                [Reason(reason) for reason in asked["reasons"]],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParameterInvalid(
                "", "the body names a model_version, its feature_set_id, features and reasons"
            ) from error


def explained(model: Artifact, asked: Question) -> dict[str, Any]:
    """Raises FeatureSetMismatch, FeatureInvalid, ModelOutputInvalid.

    Contributions sum to 1. `what_if` holds the score with all reasons' features at their usual values, then with
    those of each reason alone.
    """
    manifest = model.manifest
    if asked.feature_set_id != manifest.feature_set_id:
        raise FeatureSetMismatch(manifest.feature_set_id, asked.feature_set_id)
    missing = [name for name in features.NAMES if name not in asked.features]
    if missing:
        raise FeatureSetMismatch(manifest.feature_set_id, f"a row without {', '.join(missing)}")
    for name, value in asked.features.items():
        if not np.isfinite(value):
            raise FeatureInvalid(0, name)
    ordinary = usual(asked.features, middles(model))
    choices = [[reason] for reason in asked.reasons]
    if len(choices) > 1:
        choices.insert(0, list(asked.reasons))
    rows = np.stack(
        [_row(model, asked.features, {}), *(_row(model, asked.features, _of(ordinary, c)) for c in choices)]
    )
    scores, contributions = model.run(rows)
    return {
        "model_version": model.version,
        "feature_set_id": manifest.feature_set_id,
        "artifact_sha256": model.sha256,
        "threshold": manifest.threshold,
        "anomaly_score": _decimal(scores[0]),
        "features": [
            {
                "name": name,
                "value": asked.features[name],
                "usual": None if name not in ordinary else _decimal(ordinary[name]),
                "contribution": _decimal(contribution),
            }
            for name, contribution in zip(manifest.columns, contributions[0], strict=True)
        ],
        "what_if": [
            {"usual": choice, "anomaly_score": _decimal(score), "is_anomaly": bool(score >= manifest.threshold)}
            for choice, score in zip(choices, scores[1:], strict=True)
        ],
    }


def middles(model: Artifact) -> dict[str, float]:
    """Medians of the training window's payments by column, as far as the version kept them."""
    reference = model.manifest.reference
    if reference is None:
        return {}
    exact = {name: quantiles[len(quantiles) // 2] for name, quantiles in reference.quantiles.items() if quantiles}
    return {name: _middle(histogram) for name, histogram in reference.features.items() if histogram.edges} | exact


def _middle(histogram: Histogram) -> float:
    """The upper edge of the bin that holds the median; the last edge where it lies beyond."""
    counts = np.cumsum(histogram.counts)
    place = int(np.searchsorted(counts, counts[-1] / 2))
    return float(histogram.edges[min(place, len(histogram.edges) - 1)])


def _of(ordinary: dict[str, float], reasons: list[Reason]) -> dict[str, float]:
    """The usual values of the columns that speak for these reasons."""
    names = {feature.name for feature in features.CATALOGUE if feature.reason in reasons}
    return {name: value for name, value in ordinary.items() if name in names}


def _row(model: Artifact, row: dict[str, float], changed: dict[str, float]) -> npt.NDArray[np.float32]:
    values = row | changed
    return np.array([values[name] for name in model.manifest.columns], np.float32)


def _decimal(value: float | np.floating[Any]) -> float:
    return float(str(np.float32(value)))
