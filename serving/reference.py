"""What a version's payments looked like when it was calibrated, and how far others are from that.

The distance is the population stability index over the reference's own bins, less what it would be on average
were nothing changed: two samples of one distribution, n and m values in k bins, differ by (k - 1)(1/n + 1/m), with
a standard deviation of sqrt(2(k - 1))(1/n + 1/m) (Yurdakul, Statistical Properties of PSI, 2018).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Counts [len(edges) + 1] between ascending `edges`. A value that equals an edge lies in the bin below it.

    `usual` is the highest excess of any day of the window against all of it: weekends and paydays are no drift.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    usual: float = 0.0

    def count(self, values: npt.NDArray[Any]) -> Counts:
        """Values [n] -> how many lie in each bin."""
        places = np.searchsorted(np.asarray(self.edges), values, side="left")
        return np.bincount(places, minlength=len(self.edges) + 1)

    def psi(self, counts: Counts) -> float:
        """Population stability index of `counts` against this; half a value is added to every bin, so none is empty."""
        ours = (np.asarray(self.counts) + 0.5) / (sum(self.counts) + 0.5 * len(self.counts))
        theirs = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
        return float(((theirs - ours) * np.log(theirs / ours)).sum())

    def chance(self, counts: Counts) -> tuple[float, float]:
        """Mean and standard deviation of the index where nothing has changed. `counts` hold at least one value."""
        free = max(int(((np.asarray(self.counts) > 0) | (counts > 0)).sum()) - 1, 0)
        scale = 1 / counts.sum() + 1 / max(sum(self.counts), 1)
        return float(free * scale), float(np.sqrt(2 * free) * scale)

    def excess(self, counts: Counts) -> float:
        """The index beyond its mean under no change."""
        return self.psi(counts) - self.chance(counts)[0]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Histogram":
        return cls(tuple(map(float, values["edges"])), tuple(map(int, values["counts"])), float(values["usual"]))


# Columns that move whatever people do: the history grows with the record, and all payments of a day read one snapshot
# of merchants, so their volume and risk are a single draw a day and not a sample.
MOVING = ("history", "merchant_volume_30d", "merchant_risk_7d", "merchant_risk_30d")


@dataclass(frozen=True)
class Reference:
    """Of a version: anomaly scores of the calibration window's payments, raw features of the training window's.

    `reasons` counts the first reasons, by their code, of payments that score `reasons_from` or more: a level that
    an alert budget does not move. `quantiles` are those of the MOVING columns, evenly spaced, least and most included.
    """

    score: Histogram
    features: dict[str, Histogram]
    reasons: Histogram
    reasons_from: float
    quantiles: dict[str, tuple[float, ...]] = field(
        default_factory=dict
    )  # empty in versions from before there were any

    def settled(self, x: npt.NDArray[np.float32], columns: tuple[str, ...]) -> npt.NDArray[np.float32]:
        """Rows [n, columns] with each MOVING column distributed as in training, every row keeping its rank in it."""
        x = x.copy()
        for name, quantiles in self.quantiles.items():
            values = x[:, columns.index(name)]
            ranked = np.sort(values)
            places = np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")
            grid = np.linspace(0, 1, len(quantiles))
            x[:, columns.index(name)] = np.interp(places / (2 * len(values)), grid, quantiles)
        return x

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Reference":
        return cls(
            score=Histogram.from_json(values["score"]),
            features={name: Histogram.from_json(one) for name, one in values["features"].items()},
            reasons=Histogram.from_json(values["reasons"]),
            reasons_from=float(values["reasons_from"]),
            quantiles={name: tuple(map(float, one)) for name, one in values.get("quantiles", {}).items()},
        )
