"""How much of a window's fraud is still unreported, and calibration without it.

Half of the frauds of a window's last day have no report yet by the default label cut-off. Left among the
"ordinary" payments they are a few in a thousand, all at high scores, and push the rarest levels of the
anomaly score far out (0.75 was reached by 3 in 10,000 ordinary payments instead of 10).
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def reported_share(delays: DoubleArray, observed: DoubleArray, ages: DoubleArray) -> DoubleArray:
    """Share of frauds of each age that have been reported, among those that ever are.

    `delays` from event to report, of the reports seen so far, and `observed`, how long ago those events
    were: a delay longer than that could not have been seen, so plain shares would flatter young events.
    Estimated by the product limit backwards in time (Lynden-Bell 1971, for truncated data). 1 without reports.
    """
    if not len(delays):
        return np.ones(len(ages))
    steps, ties = np.unique(delays, return_counts=True)
    # At each delay: the reports that were at least as quick and whose event is old enough to have shown it.
    quick = np.searchsorted(np.sort(delays), steps, side="right")
    hidden = np.searchsorted(np.sort(observed), steps, side="left")
    at_risk = np.maximum(quick - hidden, ties)
    # Product over the later steps; the first step never leaves a share of 0, there is always that report.
    kept = np.maximum(1 - ties / at_risk, 0.0)
    kept[0] = 1.0
    share = np.append(np.cumprod(kept[::-1])[::-1][1:], 1.0)
    place = np.searchsorted(steps, ages, side="right") - 1
    return np.where(place >= 0, share[np.maximum(place, 0)], 0.0)


def without_unreported(unlabelled: FloatArray, frauds: FloatArray, share: DoubleArray) -> BoolArray:
    """Which unlabelled rows to keep once those likely to be unreported frauds are taken out.

    `unlabelled` and `frauds` are raw scores, `share` [frauds] what part of each fraud's contemporaries has
    been reported: a fraud stands for 1 / share - 1 others that score alike, and for each of them the
    unlabelled row with the nearest score is taken out.
    """
    keep = np.ones(len(unlabelled), bool)
    order = np.argsort(unlabelled, kind="stable")
    ranked = unlabelled[order]
    free = np.ones(len(ranked), bool)
    owed = 0.0
    for row in np.argsort(-frauds, kind="stable"):
        owed += 1 / max(share[row], 0.5) - 1
        while owed >= 1 and free.any():
            owed -= 1
            taken = _nearest_free(ranked, free, float(frauds[row]))
            free[taken] = False
    keep[order] = free
    return keep


def _nearest_free(ranked: FloatArray, free: BoolArray, value: float) -> int:
    """Position of the free entry of ascending `ranked` that is nearest to `value`."""
    right = left = int(np.searchsorted(ranked, value))
    while right < len(ranked) and not free[right]:
        right += 1
    left -= 1
    while left >= 0 and not free[left]:
        left -= 1
    if right == len(ranked) or (left >= 0 and value - ranked[left] <= ranked[right] - value):
        return left
    return right
