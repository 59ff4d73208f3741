"""From an artefact's numbers to what an analyst reads: a score and at most four reasons."""

import math

import numpy as np
import numpy.typing as npt

from feature_repo import features
from feature_repo.features import Reason
from serving.artifact import Artifact, FloatArray
from serving.wire import MAX_REASONS, NO_REASON, SCORED

MIN_SHARE = 0.15  # MODELS.md §3: a reason under this share of the residual is not worth a reader's time

# `history` is log(1 + payments before this one); half a payment below the limit is safe in float32.
_ENOUGH_HISTORY = math.log1p(features.MIN_HISTORY_FOR_REASONS - 0.5)
_SPARSE = features.REASONS.index(Reason.SPARSE_USER)
_RELATIVE = np.array([reason in features.USER_RELATIVE for reason in features.REASONS])


def score(artifact: Artifact, X: npt.ArrayLike) -> npt.NDArray[np.void]:
    """Raw features float32[n, F] in manifest order -> SCORED[n]. Raises what Artifact.run raises."""
    inputs = np.ascontiguousarray(X, dtype=np.float32)
    scores, contributions = artifact.run(inputs)
    return with_reasons(scores, contributions, inputs, artifact.manifest.columns)


def with_reasons(
    scores: FloatArray, contributions: FloatArray, inputs: FloatArray, columns: tuple[str, ...]
) -> npt.NDArray[np.void]:
    """Scores [n] and contributions [n, F] of raw features [n, F] named `columns` -> SCORED[n]."""
    shares = _by_reason(contributions, columns)
    if "history" in columns:
        _without_past(shares, inputs[:, columns.index("history")] < _ENOUGH_HISTORY)
    return _ranked(scores, shares)


def reason_matrix(columns: tuple[str, ...]) -> FloatArray:
    """[F, reasons] of 0 and 1: which reason each column speaks for."""
    matrix = np.zeros((len(columns), len(features.REASONS)), np.float32)
    for row, position in enumerate(features.positions(columns)):
        matrix[row, features.REASONS.index(features.CATALOGUE[position].reason)] = 1
    return matrix


def _by_reason(contributions: FloatArray, columns: tuple[str, ...]) -> FloatArray:
    """[n, F] -> [n, reasons]: shares of the reasons' 1.5-norms.

    Between adding the columns of a reason, which favours the one that many columns tell in several ways, and
    taking the largest, which lets one wild column speak for all.
    """
    norms: FloatArray = np.cbrt((contributions * np.sqrt(contributions) @ reason_matrix(columns)) ** 2)
    return norms / norms.sum(axis=1, keepdims=True)


def _without_past(shares: FloatArray, sparse: npt.NDArray[np.bool_]) -> None:
    """In place: a user with too few payments cannot differ from himself; all of that is "new user"."""
    relative = shares[sparse] * _RELATIVE
    shares[sparse] -= relative
    shares[sparse, _SPARSE] += relative.sum(axis=1)


def _ranked(scores: FloatArray, shares: FloatArray) -> npt.NDArray[np.void]:
    """Largest share first; equal shares in the order of features.REASONS."""
    order = np.argsort(-shares, axis=1, kind="stable")[:, :MAX_REASONS]
    top = np.take_along_axis(shares, order, axis=1)
    named = top >= MIN_SHARE
    scored = np.empty(len(scores), SCORED)
    scored["score"] = scores
    scored["reasons"] = np.where(named, order, NO_REASON)
    scored["shares"] = np.where(named, top, 0)
    return scored
