"""What the model service answers per payment, as bytes: shared by the service, its client and the scorer."""

import numpy as np

MAX_REASONS = 4
NO_REASON = 255  # fills `reasons` behind the last one; `shares` is 0 there

# score    anomaly score in [0, 1], higher is more anomalous
# reasons  positions in feature_repo.features.REASONS, largest share first
# shares   that reason's share of the normalised residual, 0.15 to 1
SCORED: np.dtype[np.void] = np.dtype(
    [("score", "<f4"), ("reasons", "u1", (MAX_REASONS,)), ("shares", "<f4", (MAX_REASONS,))]
)
