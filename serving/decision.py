"""The decision library: what a score means for the payment. Shared by the stream and the model service.

Rule set `v0`: a score at or above the model's threshold is an anomaly and is reviewed; one at or above
the reject threshold (off unless it is set) is rejected; anything below the threshold is approved; a
payment without a score is reviewed, never approved.
"""

import numpy as np
from numpy.typing import NDArray

RULESET = "v0"

DECISIONS: tuple[str, ...] = ("approve", "review", "reject")  # a decision's position here is its code
APPROVE, REVIEW, REJECT = range(3)


def decide(
    scores: NDArray[np.float32],
    scored: NDArray[np.bool_],
    threshold: float,
    reject_threshold: float | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Whether each payment is an anomaly, and its decision (position in `DECISIONS`); both of shape [n].

    `scores` are in [0, 1] and mean nothing where `scored` is False. Thresholds are compared as float32,
    the precision a score is stored with, so a stored row gives the same decision when it is decided again.
    `reject_threshold` holds also where it lies under `threshold`.
    """
    high = scored & (scores >= np.float32(threshold))
    # Review is where a row starts: it takes a score that is below the threshold to be approved.
    decision = np.full(len(scores), REVIEW, dtype=np.uint8)
    decision[scored & (scores < np.float32(threshold))] = APPROVE
    if reject_threshold is not None:
        decision[scored & (scores >= np.float32(reject_threshold))] = REJECT
    return high, decision
