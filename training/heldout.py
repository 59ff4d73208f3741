"""Scores of payments by networks that did not train on them, out of fold by day.

Calibration, threshold and report all read these: a network flatters the rows it has seen.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from feature_repo.errors import BadConfiguration
from serving.scorer import with_reasons
from training.data import TrainingSet
from training.models import BASELINES, Model, fit
from training.recipes import Recipe

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """Days held out together, and the model fitted to the others."""

    rows: npt.NDArray[np.int64]  # positions in the training set
    model: Model


@dataclass(frozen=True)
class HeldOut:
    """Every held-out payment with its raw score. `rows` are positions in the training set, ascending."""

    rows: npt.NDArray[np.int64]
    raw: FloatArray
    reasons: npt.NDArray[np.uint8]  # [n, MAX_REASONS], as serving would give them
    baselines: dict[str, FloatArray]


def split_days(data: TrainingSet, recipe: Recipe) -> list[npt.NDArray[np.int64]]:
    """Positions of the rows to hold out, one array per fold: whole days, never a part of one.

    With folds > 1 the days take turns, so that each fold has weekdays and weekends; with folds = 1 the last
    days are held out. Raises BadConfiguration for a window of a single day.
    """
    days = np.unique(data.day)
    if len(days) < 2:
        raise BadConfiguration("the window has one day: nothing can be held out for calibration")
    if recipe.folds == 1:
        last = days[-max(1, round(recipe.holdout_share * len(days))) :]
        return [np.flatnonzero(np.isin(data.day, last))]
    folds = min(recipe.folds, len(days))
    turn = np.searchsorted(days, data.day) % folds
    return [np.flatnonzero(turn == fold) for fold in range(folds)]


def fit_folds(data: TrainingSet, recipe: Recipe) -> list[Fold]:
    """One model per fold, fitted to the rows of the other days."""
    return [Fold(held, fit(data, recipe, _others(data, held))) for held in split_days(data, recipe)]


def score_folds(data: TrainingSet, folds: list[Fold], recipe: Recipe) -> HeldOut:
    """Held-out scores of the models and, where the recipe asks, of the baselines."""
    rows = np.concatenate([fold.rows for fold in folds])
    order = np.argsort(rows, kind="stable")
    scored = np.concatenate([_scored(fold.model, x, data.columns) for fold in folds for x in data.parts(fold.rows)])
    raw, reasons = scored["score"][order], scored["reasons"][order]
    baselines = _baselines(data, folds, recipe) if recipe.baselines else {}
    return HeldOut(rows[order], raw, reasons, {name: s[order] for name, s in baselines.items()})


def _scored(model: Model, x: FloatArray, columns: tuple[str, ...]) -> npt.NDArray[np.void]:
    return with_reasons(model.score(x), model.contributions(x), x, columns)


def _baselines(data: TrainingSet, folds: list[Fold], recipe: Recipe) -> dict[str, FloatArray]:
    """Scores by name, fold after fold; a rule is told by its frauds, so without any there is none."""
    scores: dict[str, list[FloatArray]] = {name: [] for name in BASELINES}
    for fold in folds:
        others = _others(data, fold.rows)
        if not data.label[others].any():
            scores.pop("rule", None)
        for name in scores:
            model = fit(data, replace(recipe, kind=name), others)
            scores[name] += [model.score(x) for x in data.parts(fold.rows)]
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def _others(data: TrainingSet, held: npt.NDArray[np.int64]) -> BoolArray:
    seen = np.ones(len(data), bool)
    seen[held] = False
    return seen
