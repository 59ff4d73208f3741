"""What drift is measured against later: histograms of the payments a version was calibrated on."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.features import REASONS
from serving.reference import MOVING, Histogram, Reference
from training.data import TrainingSet
from training.heldout import HeldOut

FloatArray = npt.NDArray[np.float32]

BINS = 10  # at most; a value that many payments share takes the place of several
QUANTILES = 201
REASONS_FROM = 0.5  # score of one ordinary payment in a hundred


def reference(data: TrainingSet, held: HeldOut, scores: FloatArray, kept: tuple[int, ...]) -> Reference:
    """Of a fitted version. `scores` [held] are the anomaly scores of the held-out payments, `kept` its columns."""
    day = data.day[held.rows]
    high = scores >= REASONS_FROM
    codes = Histogram(tuple(map(float, range(len(REASONS)))), (0,) * (len(REASONS) + 1))
    return Reference(
        score=_described(scores, day),
        features={data.columns[place]: _described(data.x[:, place], data.day) for place in kept},
        reasons=_filled(codes, held.reasons[high, 0], day[high]),
        reasons_from=REASONS_FROM,
        quantiles={
            data.columns[place]: _quantiles(data.x[:, place]) for place in kept if data.columns[place] in MOVING
        },
    )


def _quantiles(values: FloatArray) -> tuple[float, ...]:
    return tuple(map(float, np.quantile(values, np.linspace(0, 1, QUANTILES))))


def _described(values: FloatArray, day: npt.NDArray[np.int64]) -> Histogram:
    """Bins between the quantiles; the most frequent value of a column that hardly varies has a bin of its own."""
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    edges = edges[edges < values.max()]
    return _filled(Histogram(tuple(map(float, edges)), (0,) * (len(edges) + 1)), values, day)


def _filled(bins: Histogram, values: npt.NDArray[Any], day: npt.NDArray[np.int64]) -> Histogram:
    """`bins` with the counts of `values` [n], and what is usual between the days they are of; `day` ascends."""
    whole = replace(bins, counts=tuple(map(int, bins.count(values))))
    days = np.split(values, np.flatnonzero(np.diff(day)) + 1)
    daily = [whole.excess(whole.count(one)) for one in days if len(one)]
    return replace(whole, usual=max([0.0, *daily]))
