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


def _autoencoder(data: TrainingSet, recipe: Recipe) -> Model:
    return detector.fit_autoencoder(data.x[~data.label], recipe, known=data.x[data.label])


FITS: dict[str, Callable[[TrainingSet, Recipe], Model]] = {
    "autoencoder": _autoencoder,
    "boosted": lambda data, recipe: boosted.fit(data.x, data.label, data.too_young, recipe),
    "isolation_forest": lambda data, recipe: baselines.isolation_forest(data.x[~data.label], recipe),
    "mahalanobis": lambda data, recipe: baselines.mahalanobis(data.x[~data.label]),
    "rule": lambda data, recipe: baselines.rule(data.x, data.label),
}
BASELINES = ("isolation_forest", "mahalanobis", "rule")  # what a model must beat to be worth its place


def fit(data: TrainingSet, recipe: Recipe) -> Model:
    """Fit the recipe's kind of model. Raises BadConfiguration where the rows do not allow it."""
    return FITS[recipe.kind](data, recipe)
