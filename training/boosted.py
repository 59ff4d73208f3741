"""The supervised challenger: boosted trees on the features and the autoencoder's score, taught by delayed labels.

Rows younger than the median label delay are left out, reported or not: their silence says nothing yet, and
keeping only their reports would teach that what is recent is fraud. The raw score is the odds of fraud.

What the trees may ask is whether a value lies above one of at most 254 cuts per column. Half of the cuts part the
ordinary rows evenly, half the known frauds: quantiles of all rows alone lay the highest 0.4 % of amounts, where a
third of the frauds is, into one bin that no split can enter.

Reasons: the trees' answer is a sum of parts, one per column (training/trees.py). What raised the answer
counts, and the part of the autoencoder's score is divided among the columns as its own evidence is.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.errors import BadConfiguration
from training.detector import Detector, fit_autoencoder
from training.graph import Graph
from training.recipes import Recipe
from training.trees import Ensemble, Tree, of_boosting

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

MIN_FRAUDS = 20  # one leaf's worth
MOST_CUTS = 254  # per column: a booster's bins are 255 at most
TINY = 1e-9  # keeps the shares of a row without a suspicious part from being 0 / 0
WIDEST = 30.0  # log odds at which the score is cut: e**30 fits a float32 with room to spare
# How near, relative to it, an autoencoder score may lie to a threshold of the trees before rounding decides.
EDGE = 1e-4


@dataclass(frozen=True)
class Boosted:
    detector: Detector
    cuts: tuple[FloatArray, ...]  # of each kept column and the autoencoder's score, rising
    boosters: tuple[Any, ...]  # sklearn classifiers, fitted to `_places`; the answer is their mean
    trees: Ensemble  # of all of them, over the kept columns and the autoencoder's score
    start: float  # log odds before the first tree

    @property
    def width(self) -> int:
        return self.detector.width

    @property
    def kept(self) -> tuple[int, ...]:
        return self.detector.kept

    @property
    def losses(self) -> tuple[tuple[float, ...], ...]:
        return self.detector.losses

    def score(self, x: FloatArray) -> FloatArray:
        """[n, width] -> [n]: odds of fraud, as the delayed labels have it."""
        places = _places(_inputs(self.detector, x), self.cuts)
        answer = np.mean([booster.decision_function(places) for booster in self.boosters], axis=0)
        return np.exp(np.clip(answer, -WIDEST, WIDEST)).astype(np.float32)

    def contributions(self, x: FloatArray) -> FloatArray:
        parts = np.maximum(self.trees.answers(_inputs(self.detector, x))[:, :-1], 0) + np.float32(TINY)
        through = self.detector.contributions(x)
        shares = parts[:, -1:] * through
        shares[:, self.kept] += parts[:, :-1]
        return shares / shares.sum(axis=1, keepdims=True)

    def settled(self, x: FloatArray) -> BoolArray:
        """Not where the autoencoder's score lies so near a threshold that two processors may take two ways."""
        score, column = self.detector.score(x), len(self.kept)
        cuts = np.concatenate([tree.threshold[tree.asks(column)] for tree in self.trees.trees])
        cuts = np.unique(np.r_[0.0, cuts, np.inf])
        above = np.searchsorted(cuts, score).clip(1)
        return np.minimum(score - cuts[above - 1], cuts[above] - score) > EDGE * score

    def into(self, graph: Graph) -> tuple[str, str]:
        width = len(self.kept)
        raw, through = self.detector.into(graph)
        inputs = graph.add("Concat", "features", graph.add("Unsqueeze", raw, graph.axis(1)), axis=1)
        answers = self.trees.into(graph, inputs)
        parts = graph.add("Add", graph.add("Relu", graph.columns(answers, 0, width + 1)), graph.constant(TINY))
        divided = graph.add("Mul", graph.columns(parts, width, width + 1), through)
        shares = graph.shares(graph.add("Add", graph.columns(parts, 0, width), divided))
        odds = graph.add("Add", graph.column(answers, width + 1), graph.constant(self.start))
        clipped = graph.add("Clip", odds, graph.constant(-WIDEST), graph.constant(WIDEST))
        return graph.add("Exp", clipped), shares


def fit(x: FloatArray, fraud: BoolArray, too_young: BoolArray, recipe: Recipe) -> Boosted:
    """Fit to rows [n, width] with what is known of them. Raises BadConfiguration where too few frauds are."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # a second to import

    old = ~too_young
    if fraud[old].sum() < MIN_FRAUDS:
        raise BadConfiguration(
            f"{int(fraud[old].sum())} known frauds old enough to learn from, {MIN_FRAUDS} are needed",
            remedy="train on an earlier or longer window, or give a later --labels-as-of",
        )
    detector = fit_autoencoder(x[~fraud], recipe)
    inputs = _inputs(detector, x[old])
    cuts = tuple(_cuts(column, fraud[old]) for column in inputs.T)
    places = _places(inputs, cuts)
    boosters = tuple(
        HistGradientBoostingClassifier(
            max_iter=recipe.trees,
            max_leaf_nodes=recipe.leaves,
            learning_rate=recipe.tree_learning_rate,
            l2_regularization=recipe.tree_penalty,
            max_features=recipe.tree_features,
            early_stopping=False,  # it would hold out rows at random, days apart from their neighbours
            random_state=recipe.seed + number,
        ).fit(places, fraud[old])
        for number in range(recipe.seeds)
    )
    trees = [_over_values(tree, cuts) for booster in boosters for tree in of_boosting(booster, 1 / len(boosters))]
    start = float(np.mean([booster._baseline_prediction for booster in boosters]))
    return Boosted(detector, cuts, boosters, Ensemble(tuple(trees), inputs.shape[1]), start)


def _inputs(detector: Detector, x: FloatArray) -> FloatArray:
    """The kept columns and, last, the autoencoder's raw score."""
    return np.column_stack([x[:, detector.kept], detector.score(x)])


def _cuts(column: FloatArray, fraud: BoolArray) -> FloatArray:
    """Between two values of the column each: half at even shares of the ordinary rows, half at those of the frauds."""
    values = np.unique(column)
    shares = np.linspace(0, 1, MOST_CUTS // 2)
    chosen = [np.quantile(column[rows], shares, method="inverted_cdf") for rows in (fraud, ~fraud)]
    below = np.searchsorted(values[:-1], np.unique(np.concatenate(chosen)))
    below = below[below < len(values) - 1]
    return np.asarray((values[below].astype(np.float64) + values[below + 1]) / 2, np.float32)


def _places(inputs: FloatArray, cuts: tuple[FloatArray, ...]) -> FloatArray:
    """For each value how many of its column's cuts lie under it."""
    return np.column_stack([np.searchsorted(cut, column) for cut, column in zip(cuts, inputs.T, strict=True)]).astype(
        np.float32
    )


def _over_values(tree: Tree, cuts: tuple[FloatArray, ...]) -> Tree:
    """A tree over `_places` as one over the values: a place is at or below t where the value is at or below cut t."""
    threshold = tree.threshold.copy()
    for column, cut in enumerate(cuts):
        asked = tree.asks(column)
        threshold[asked] = cut[np.floor(threshold[asked]).astype(int)]
    return replace(tree, threshold=threshold)
