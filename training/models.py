"""What can be trained, promoted and served: every kind of model behind one interface.

A model reads raw rows, answers with a raw score at or above 0 (higher is more anomalous) and with each
column's share of it, and writes itself into the artefact's graph. Which kind, and how, is the recipe's.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from training import baselines, boosted, detector
from training.data import TrainingSet
from training.graph import Graph
from training.recipes import Recipe

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

ENOUGH_ROWS = 1_000_000  # for a baseline: its copies of more would fill the memory


class Model(Protocol):
    """A fitted model over tables of `width` columns, of which it looks at those `kept`."""

    @property
    def width(self) -> int: ...

    @property
    def kept(self) -> tuple[int, ...]: ...

    @property
    def losses(self) -> tuple[tuple[float, ...], ...]:
        """Per network and optimiser step; nothing where nothing is trained step by step."""
        ...

    def score(self, x: FloatArray) -> FloatArray:
        """[n, width] -> [n], raw scores."""
        ...

    def contributions(self, x: FloatArray) -> FloatArray:
        """[n, width] -> [n, width], at or above 0, rows sum to 1; columns not kept have 0."""
        ...

    def settled(self, x: FloatArray) -> BoolArray:
        """[n, width] -> [n]: whose score does not jump where a processor rounds the last digit otherwise."""
        ...

    def into(self, graph: Graph) -> tuple[str, str]:
        """Write yourself over the input's kept columns; returns raw score [n] and contributions [n, kept]."""
        ...


def _autoencoder(data: TrainingSet, rows: BoolArray, recipe: Recipe) -> Model:
    return detector.fit_autoencoder(data.x[rows & ~data.label], recipe, known=data.x[rows & data.label])


def _boosted(data: TrainingSet, rows: BoolArray, recipe: Recipe) -> Model:
    return boosted.fit(data.x[rows], data.label[rows], data.too_young[rows], recipe)


def _isolation_forest(data: TrainingSet, rows: BoolArray, recipe: Recipe) -> Model:
    return baselines.isolation_forest(data.x[_enough(rows & ~data.label)], recipe)


def _mahalanobis(data: TrainingSet, rows: BoolArray, _: Recipe) -> Model:
    return baselines.mahalanobis(data.x[_enough(rows & ~data.label)])


def _rule(data: TrainingSet, rows: BoolArray, _: Recipe) -> Model:
    chosen = _enough(rows)
    return baselines.rule(data.x[chosen], data.label[chosen])


def _enough(rows: BoolArray) -> npt.NDArray[np.int64]:
    """Positions of the rows, or of a very large table's as many as tell what is simple the same."""
    found = np.flatnonzero(rows)
    return found[:: max(1, len(found) // ENOUGH_ROWS)]


FITS: dict[str, Callable[[TrainingSet, BoolArray, Recipe], Model]] = {
    "autoencoder": _autoencoder,
    "boosted": _boosted,
    "isolation_forest": _isolation_forest,
    "mahalanobis": _mahalanobis,
    "rule": _rule,
}
BASELINES = ("isolation_forest", "mahalanobis", "rule")  # what a model must beat to be worth its place


def fit(data: TrainingSet, recipe: Recipe, rows: BoolArray | None = None) -> Model:
    """Fit the recipe's kind of model, to `rows` alone if given. Raises BadConfiguration where they do not allow it."""
    return FITS[recipe.kind](data, np.ones(len(data), bool) if rows is None else rows, recipe)
