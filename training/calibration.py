"""Calibration: from a raw score to a readable one, by how rare such a score is among ordinary payments.

The anomaly score is 0.25 where one ordinary payment in ten scores as high, 0.5 one in a hundred, 0.75 one
in a thousand, 0.9 one in ten thousand (MODELS.md §3). In between, and beyond, it is a strictly increasing
function of u = -log10(share of ordinary payments that score at least as high), so a ranking is unchanged.

u is piecewise linear in the logarithm of the raw score: on empirical quantiles up to the 99 % quantile, on
a generalised Pareto tail above it, and exponential beyond what was observed, so that even the far tail does
not tie. All in float64: rounding to float32 at the end cannot turn the order round.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.errors import BadConfiguration

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

MIN_ROWS = 1_000  # ordinary payments; fewer leave under ten above the 99 % quantile
MIN_TAIL_ROWS = 100  # exceedances below which the shape of the tail is not estimated but taken as exponential
TAIL_SHARE = 0.01
SHAPE_LIMIT = 0.45  # probability-weighted moments have a finite variance for shapes under 0.5
BOOTSTRAPS = 200
RAW_FLOOR = 1e-30  # keeps the logarithm finite

# Survival probabilities of the knots of the bulk; the tail's go down by a quarter decade each.
BULK = (0.995, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
TAIL_STEP = 0.25  # decades

# The score climbs by 0.25 per decade of rarity up to u = 3 and by 0.15 up to u = 4. Beyond, it goes on with
# the same slope as 1 - 0.1 / sqrt(1 + 3 (u - 4)): slow enough that float32 still tells far scores apart.
COMMON_SLOPE, RARE_FROM, RARE_SLOPE, TAIL_FROM, TAIL_REST, TAIL_RATE = 0.25, 3.0, 0.15, 4.0, 0.1, 3.0


@dataclass(frozen=True)
class Tail:
    """Generalised Pareto tail of log raw scores above `start`, with 90 % bootstrap intervals."""

    start: float  # the 99 % quantile
    scale: float
    shape: float  # 0 is exponential
    exceedances: int
    scale_interval: tuple[float, float]
    shape_interval: tuple[float, float]

    def excess(self, share: DoubleArray) -> DoubleArray:
        """How far above `start` the score lies that a `share` (under 1) of the exceedances reach."""
        if abs(self.shape) < 1e-6:
            return -self.scale * np.log(share)
        return self.scale / self.shape * (share**-self.shape - 1)


@dataclass(frozen=True)
class Calibration:
    """Knots of u over log raw score, both strictly increasing, and what they were fitted on."""

    knots: tuple[float, ...]  # natural logarithm of the raw score
    rarity: tuple[float, ...]  # u = -log10(share of ordinary payments at or above)
    rows: int
    tail: Tail

    def apply(self, raw: FloatArray) -> FloatArray:
        """Raw scores, at or above 0 -> anomaly scores in [0, 1)."""
        x = np.log(np.maximum(raw.astype(np.float64), RAW_FLOOR))
        return score_of_rarity(self.rarity_of(x)).astype(np.float32)

    def rarity_of(self, x: DoubleArray) -> DoubleArray:
        """u at log raw scores `x`: a hyperbola towards 0 below the first knot, linear above the last."""
        knots, rarity = np.asarray(self.knots), np.asarray(self.rarity)
        inside = np.interp(x, knots, rarity)
        below = rarity[0] / (1 + self.first_rate * np.maximum(knots[0] - x, 0))
        above = self.last_slope * np.maximum(x - knots[-1], 0)
        return np.where(x < knots[0], below, inside + above)

    @property
    def first_rate(self) -> float:
        """Of the hyperbola below the first knot: u is smooth there, and never underflows to a tie."""
        slope = (self.rarity[1] - self.rarity[0]) / (self.knots[1] - self.knots[0])
        return float(slope / self.rarity[0])

    @property
    def last_slope(self) -> float:
        """Slope above the last knot: never steeper than the tail began, though a short tail ends steeply.

        A steep one would push every anomaly so close to 1 that float32 ties them.
        """
        last = (self.rarity[-1] - self.rarity[-2]) / (self.knots[-1] - self.knots[-2])
        return float(min(last, 1 / (self.tail.scale * np.log(10))))

    def report(self) -> dict[str, Any]:
        return {"rows": self.rows, "knots": len(self.knots), "tail": asdict(self.tail)}


def score_of_rarity(u: DoubleArray) -> DoubleArray:
    """u in [0, inf) -> [0, 1), strictly increasing: 1 -> 0.25, 2 -> 0.5, 3 -> 0.75, 4 -> 0.9."""
    common = COMMON_SLOPE * np.minimum(u, RARE_FROM)
    rare = RARE_SLOPE * np.clip(u - RARE_FROM, 0, TAIL_FROM - RARE_FROM)
    far = TAIL_REST * (1 - 1 / np.sqrt(1 + TAIL_RATE * np.maximum(u - TAIL_FROM, 0)))
    return common + rare + far


def fit_calibration(raw: FloatArray, seed: int = 0) -> Calibration:
    """Fit to raw scores [n] of ordinary payments that the scoring networks did not train on.

    Raises BadConfiguration where there are under MIN_ROWS of them, or they hardly differ.
    """
    if len(raw) < MIN_ROWS:
        raise BadConfiguration(f"{len(raw)} ordinary payments to calibrate on, {MIN_ROWS} are needed")
    x = np.log(np.maximum(raw.astype(np.float64), RAW_FLOOR))
    shares = np.asarray(BULK)
    bulk = np.quantile(x, 1 - shares)
    tail = _fit_tail(x, float(bulk[-1]), seed)
    depth = max(np.log10(len(raw)), 4.0)  # as deep as one payment of all, or one in ten thousand
    rarity = np.arange(2 + TAIL_STEP, depth + TAIL_STEP, TAIL_STEP)
    knots = tail.start + tail.excess(10**-rarity / TAIL_SHARE)
    return _increasing(np.r_[bulk, knots], np.r_[-np.log10(shares), rarity], len(raw), tail)


def _increasing(x: DoubleArray, u: DoubleArray, rows: int, tail: Tail) -> Calibration:
    """Drop knots that lie on one another (ties among the scores), keeping the rarest of each heap."""
    apart = 1e-6
    kept: list[int] = []
    for position in range(len(x)):
        while kept and x[position] - x[kept[-1]] < apart:
            kept.pop()
        kept.append(position)
    if len(kept) < 2:
        raise BadConfiguration("ordinary payments hardly differ in score: nothing to calibrate")
    return Calibration(tuple(map(float, x[kept])), tuple(map(float, u[kept])), rows, tail)


def _fit_tail(x: DoubleArray, start: float, seed: int) -> Tail:
    excess = x[x > start] - start
    if not len(excess):
        raise BadConfiguration("the highest score of ordinary payments is one tie: nothing to calibrate")
    scale, shape = _moments(excess)
    generator = np.random.default_rng(seed)
    resampled = [_moments(generator.choice(excess, len(excess))) for _ in range(BOOTSTRAPS)]
    (scale_low, shape_low), (scale_high, shape_high) = np.quantile(resampled, (0.05, 0.95), axis=0)
    return Tail(
        start,
        scale,
        shape,
        len(excess),
        (float(scale_low), float(scale_high)),
        (float(shape_low), float(shape_high)),
    )


def _moments(excess: DoubleArray) -> tuple[float, float]:
    """Scale and shape by probability-weighted moments (Hosking and Wallis, Technometrics 29, 1987)."""
    mean = float(excess.mean())
    if len(excess) < MIN_TAIL_ROWS:
        return mean, 0.0
    ordered = np.sort(excess)
    weights = 1 - (np.arange(1, len(ordered) + 1) - 0.35) / len(ordered)
    moment = float((weights * ordered).mean())
    shape = float(np.clip(2 - mean / (mean - 2 * moment), -SHAPE_LIMIT, SHAPE_LIMIT))
    return mean * (1 - shape), shape  # the scale that keeps the mean excess
