"""How much each column's evidence counts, learned from the frauds that are known.

Whether a value is rare is one question, whether rare values of that column come with fraud is another: a new
device is often a new device, a merchant whose payments were reported is seldom anything else. One number per
column answers the second one: the slopes, none below 0, of a logistic regression of "known fraud" on the
columns' evidence, drawn towards one another (Das et al. 2016, "Incorporating expert feedback into active
anomaly discovery", learn such weights for the members of an ensemble). The fewer frauds are known, the more
alike the columns count, and none is silenced: what no fraud has shown yet can still alarm.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

MIN_KNOWN = 20  # frauds under which all columns count alike
LEAST = 0.1  # of the mean weight
DECIMALS = 3  # kept of a weight, so that the order in which a machine adds does not show


def learn(ordinary: FloatArray, known: FloatArray, belief: float) -> FloatArray:
    """Evidence of ordinary rows [n, F] and of known frauds [m, F] -> weights [F] around 1, none below LEAST.

    `belief` is how strongly columns are held to count alike before any fraud is seen.
    """
    columns = ordinary.shape[1]
    if len(known) < MIN_KNOWN:
        return np.ones(columns, np.float32)
    from scipy.optimize import minimize  # half a second that plain tables do not need

    rows = np.concatenate([ordinary, known]).astype(np.float64)
    rows /= rows.std()
    fraud = np.r_[np.zeros(len(ordinary)), np.ones(len(known))]

    def loss(parameters: DoubleArray) -> tuple[float, DoubleArray]:
        """Minus the log posterior and its gradient; the last parameter is the intercept."""
        slopes = parameters[:-1]
        odds = rows @ slopes + parameters[-1]
        apart = slopes - slopes.mean()
        value = float((np.logaddexp(0, odds) - fraud * odds).sum() + belief * (apart**2).sum())
        error = 1 / (1 + np.exp(-odds)) - fraud
        return value, np.r_[rows.T @ error + 2 * belief * apart, error.sum()]

    start = np.r_[np.full(columns, 1 / columns), np.log(len(known) / len(ordinary))]
    bounds = [(0.0, None)] * columns + [(None, None)]
    slopes = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[:-1]
    mean = slopes.mean()
    if not mean > 0:  # no column tells these frauds from the rest
        return np.ones(columns, np.float32)
    return np.maximum(np.round(slopes / mean, DECIMALS), LEAST).astype(np.float32)
