"""Intervals by bootstrap over users: a user's payments stand or fall together, so users are drawn, not rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Metric = Callable[[DoubleArray], float]  # weights [n] of the rows -> the metric

REPLICATES = 200
LEVEL = 0.95


def bootstrap(user_codes: npt.NDArray[np.int64], metric: Metric, replicates: int, seed: int) -> DoubleArray:
    """float64[replicates]: the metric with each row weighted by how often its user was drawn.

    `user_codes` [n] are 0, 1, … without a gap. The same seed draws the same users, whatever the metric: two
    models judged with one seed are paired.
    """
    users = int(user_codes.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = (np.bincount(generator.integers(0, users, users), minlength=users) for _ in range(replicates))
    return np.array([metric(counts[user_codes].astype(np.float64)) for counts in drawn])


def ranked(score: npt.NDArray[Any], fraud: BoolArray) -> Metric:
    """Average precision as a function of the rows' weights; ties count together; NaN without a fraud drawn."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # last of each tie
    hits_at = fraud[order]

    def average_precision(weights: DoubleArray) -> float:
        ordered = weights[order]
        total = np.cumsum(ordered)[ends]
        hits = np.cumsum(ordered * hits_at)[ends]
        if not hits[-1]:
            return float("nan")
        gain = np.diff(hits, prepend=0.0)
        return float((gain * hits / np.maximum(total, 1e-12)).sum() / hits[-1])

    return average_precision


def share_of(part: BoolArray, whole: BoolArray, worth: DoubleArray) -> Metric:
    """What share of the worth of `whole` lies in `part`, as a function of the rows' weights."""

    def share(weights: DoubleArray) -> float:
        all_of_it = float((weights * worth)[whole].sum())
        return float((weights * worth)[part & whole].sum() / all_of_it) if all_of_it else float("nan")

    return share


def interval(replicates: DoubleArray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the replicates."""
    low, high = np.nanquantile(replicates, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
