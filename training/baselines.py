"""What an autoencoder must beat to be worth its place: a forest and a distance, on the same columns."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Scorer = Callable[[FloatArray], FloatArray]  # [n, F] -> [n], higher is more anomalous

TREES = 100
RIDGE = 1e-6  # on the diagonal of the covariance, in units of each column's variance


def isolation_forest(x: FloatArray, seed: int) -> Scorer:
    """Liu, Ting and Zhou 2008: how few random cuts separate a row from the others."""
    from sklearn.ensemble import IsolationForest  # a second to import

    forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(x)
    return lambda rows: (-forest.score_samples(rows)).astype(np.float32)


def mahalanobis(x: FloatArray) -> Scorer:
    """Squared distance from the mean in units of the covariance; constant columns count nothing."""
    wide = x.astype(np.float64)
    center = wide.mean(axis=0)
    deviation = wide.std(axis=0)
    scale = np.where(deviation > 0, deviation, np.inf)
    correlation = np.cov((wide - center) / scale, rowvar=False) + RIDGE * np.eye(x.shape[1])
    precision = np.linalg.inv(correlation)

    def distance(rows: FloatArray) -> FloatArray:
        z = (rows - center) / scale
        return np.einsum("ij,jk,ik->i", z, precision, z).astype(np.float32)

    return distance


BASELINES: dict[str, Callable[[FloatArray, int], Scorer]] = {
    "isolation_forest": isolation_forest,
    "mahalanobis": lambda x, _: mahalanobis(x),
}
