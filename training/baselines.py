"""What an autoencoder must beat to be worth its place, on the same columns: a forest, a distance, a rule.

Each can be promoted as well: where one of them wins on somebody's data, it is what should serve.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from feature_repo.errors import BadConfiguration
from training.detector import varying
from training.evaluation import average_precision
from training.graph import Graph
from training.recipes import Recipe
from training.trees import Ensemble, of_isolation

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ISOLATION_TREES = 100  # Liu et al.: path lengths have converged well before
RIDGE = 1e-6  # on the diagonal of the correlation matrix
TINY = 1e-9  # keeps the shares of a row that is exactly ordinary from being 0 / 0
STEEPEST = 20.0  # deviations at which a rule's score stops growing exponentially: e**20 is far from overflow


@dataclass(frozen=True)
class Baseline:
    """What all three have in common."""

    width: int
    kept: tuple[int, ...]

    losses = ()

    def settled(self, x: FloatArray) -> BoolArray:
        return np.ones(len(x), bool)

    def spread(self, parts: npt.NDArray[Any]) -> FloatArray:
        """Parts [n, kept] at or above 0 -> shares [n, width]."""
        shares = np.zeros((len(parts), self.width), np.float32)
        positive = parts + TINY
        shares[:, self.kept] = positive / positive.sum(axis=1, keepdims=True)
        return shares


@dataclass(frozen=True)
class Distance(Baseline):
    """Squared Mahalanobis distance, as the sum of squares of the whitened columns.

    Whitened by the symmetric root of the inverse correlation matrix, the rotation that leaves every column
    as close to itself as it can be (Kessy, Lewin and Strimmer 2018), so a square is its column's part.
    """

    center: DoubleArray  # [kept]
    whitening: DoubleArray  # [kept, kept]

    def score(self, x: FloatArray) -> FloatArray:
        return self._squares(x).sum(axis=1).astype(np.float32)

    def contributions(self, x: FloatArray) -> FloatArray:
        return self.spread(self._squares(x))

    def _squares(self, x: FloatArray) -> DoubleArray:
        return np.square((x[:, self.kept] - self.center) @ self.whitening)

    def into(self, graph: Graph) -> tuple[str, str]:
        wide = graph.add("Cast", "features", to=TensorProto.DOUBLE)
        centred = graph.add("Sub", wide, graph.double(self.center))
        white = graph.add("MatMul", centred, graph.double(self.whitening))
        squares = graph.add("Mul", white, white)
        shares = graph.shares(graph.add("Add", squares, graph.double(TINY)))
        return graph.single(graph.total(squares)), graph.single(shares)


@dataclass(frozen=True)
class Isolation(Baseline):
    """Isolation forest (Liu, Ting and Zhou 2008): how few random cuts separate a row from the others.

    A column's part is by how much the cuts on it shortened the path.
    """

    forest: Any  # a fitted sklearn IsolationForest
    trees: Ensemble  # its trees; they answer with minus a path's length
    usual: float  # path length of an average row, over all trees

    def score(self, x: FloatArray) -> FloatArray:
        scores: FloatArray = (-self.forest.score_samples(x[:, self.kept])).astype(np.float32)
        return scores

    def contributions(self, x: FloatArray) -> FloatArray:
        return self.spread(np.maximum(self.trees.answers(x[:, self.kept])[:, :-1], 0))

    def into(self, graph: Graph) -> tuple[str, str]:
        width = len(self.kept)
        answers = self.trees.into(graph, "features")
        parts = graph.add("Relu", graph.columns(answers, 0, width))
        exponent = graph.add("Mul", graph.column(answers, width), graph.constant(np.log(2) / self.usual))
        return graph.add("Exp", exponent), graph.shares(graph.add("Add", parts, graph.constant(TINY)))


@dataclass(frozen=True)
class Rule(Baseline):
    """One column above, or below, some value: a threshold is all an analyst has to set."""

    center: float
    scale: float  # below 0 where low values are the suspicious ones

    def score(self, x: FloatArray) -> FloatArray:
        z = (x[:, self.kept[0]] - np.float32(self.center)) / np.float32(self.scale)
        return np.exp(np.clip(z, -STEEPEST, STEEPEST))

    def contributions(self, x: FloatArray) -> FloatArray:
        return self.spread(np.ones((len(x), 1)))

    def into(self, graph: Graph) -> tuple[str, str]:
        z = graph.add("Div", graph.add("Sub", "features", graph.constant(self.center)), graph.constant(self.scale))
        clipped = graph.add("Clip", z, graph.constant(-STEEPEST), graph.constant(STEEPEST))
        flat = graph.add("Squeeze", graph.add("Exp", clipped), graph.axis(1))
        zeros = graph.add("Mul", clipped, graph.constant(0.0))
        return flat, graph.add("Add", zeros, graph.constant(1.0))


def isolation_forest(x: FloatArray, recipe: Recipe) -> Isolation:
    """Fit to rows [n, width] believed ordinary."""
    from sklearn.ensemble import IsolationForest  # a second to import
    from sklearn.ensemble._iforest import _average_path_length

    kept = varying(x)
    forest = IsolationForest(n_estimators=ISOLATION_TREES, random_state=recipe.seed).fit(x[:, kept])
    trees = Ensemble(tuple(of_isolation(forest, _average_path_length)), len(kept))
    usual = ISOLATION_TREES * float(_average_path_length([forest.max_samples_])[0])
    return Isolation(x.shape[1], kept, forest, trees, usual)


def mahalanobis(x: FloatArray) -> Distance:
    """Fit to rows [n, width] believed ordinary."""
    kept = varying(x)
    wide = x[:, kept].astype(np.float64)
    center, deviation = wide.mean(axis=0), wide.std(axis=0)
    correlation = np.atleast_2d(np.corrcoef(wide, rowvar=False)) + RIDGE * np.eye(len(kept))
    values, vectors = np.linalg.eigh(correlation)
    root = vectors / np.sqrt(np.maximum(values, RIDGE)) @ vectors.T
    return Distance(x.shape[1], kept, center, root / deviation[:, None])


def rule(x: FloatArray, fraud: BoolArray) -> Rule:
    """The column and the side of it that rank the known frauds best, by average precision.

    Raises BadConfiguration where no fraud is known.
    """
    if not fraud.any():
        raise BadConfiguration("no fraud is known in these rows: no rule can be told from another")
    tried = {}
    for column in varying(x):
        for side in (1.0, -1.0):
            tried[column, side] = average_precision(side * x[:, column], fraud)
    column, side = max(tried, key=lambda option: tried[option])
    values = x[:, column].astype(np.float64)
    return Rule(x.shape[1], (column,), float(values.mean()), side * float(values.std()))
