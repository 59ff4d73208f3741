"""Train, calibrate, judge and register one version: the whole of `vigil train`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt

from feature_repo import features
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from serving.artifact import Manifest
from training import recipes
from training.calibration import MIN_ROWS, fit_calibration
from training.data import TrainingSet, Truth, load_training_set, load_truth
from training.export import to_onnx, verify
from training.heldout import HeldOut, fit_folds, score_folds
from training.maturity import without_unreported
from training.models import Model
from training.models import fit as fit_to
from training.recipes import Recipe
from training.reference import reference
from training.registration import Fitted, register
from training.report import describe, metrics_of

FloatArray = npt.NDArray[np.float32]
Progress = Callable[[str], None]  # told what begins

GOLDEN_ROWS = 32  # from the most ordinary to the most anomalous held-out payment
VERIFIED_ROWS = 4_096
BUDGETS = np.geomspace(1e-4, 0.1, 61)  # alert budgets whose threshold is noted: a twentieth of a decade apart


def train(
    settings: Settings,
    data_name: str,
    first: date,
    last: date,
    labels_as_of: datetime | None = None,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> str:
    """Train on the days `first` to `last` (inclusive, UTC) and register; returns the version.

    The caller has validated the data. Raises BadConfiguration, DataInvalid, DependencyDown.
    """
    fitted = fit(settings, data_name, first, last, labels_as_of, recipes.named(recipe, overrides), progress)
    progress("registering")
    return register(settings, fitted)


def fit(
    settings: Settings,
    data_name: str,
    first: date,
    last: date,
    labels_as_of: datetime | None = None,
    recipe: Recipe | None = None,
    progress: Progress = lambda _: None,
) -> Fitted:
    """Everything of `train` that needs no registry."""
    chosen = recipe or recipes.default()
    progress("reading features")
    data = load_training_set(settings, data_name, first, last, labels_as_of)
    truth = load_truth(settings, data_name)
    fitted = fit_model(data, chosen, settings.model_name, (first, last), truth, progress)
    return replace(
        fitted, manifest=replace(fitted.manifest, created_at=datetime.now(UTC).isoformat(), data_name=data_name)
    )


def fit_model(
    data: TrainingSet,
    recipe: Recipe,
    model_name: str,
    window: tuple[date, date],
    truth: Truth | None = None,
    progress: Progress = lambda _: None,
) -> Fitted:
    """Fit, calibrate out of fold, set the threshold, judge, export; the same data and recipe give the same model."""
    whole = data
    data = data.without(recipe.left_out)
    progress("training for calibration")
    folds = fit_folds(data, recipe)
    progress("scoring held-out payments")
    held = score_folds(data, folds, recipe)
    ordinary = _calibration_rows(data, held)
    calibration = fit_calibration(held.raw[ordinary], recipe.seed)
    scores = calibration.apply(held.raw)
    threshold = float(np.quantile(scores, 1 - recipe.alert_budget, method="higher"))
    if recipe.folds == 1:
        model = folds[0].model  # what was calibrated is what serves
    else:
        progress("training on the whole window")
        model = fit_to(data, recipe)
    progress("judging")
    report = describe(data, held, scores, ordinary, calibration, threshold, model, recipe, truth)
    progress("exporting")
    exported = to_onnx(model, calibration)
    golden = _golden(data, model, scores, held.rows)
    sample = data.x[np.linspace(0, len(data) - 1, min(VERIFIED_ROWS, len(data)), dtype=int)]
    checked = np.concatenate([golden, sample[model.settled(sample)]])
    report["onnx_difference"] = verify(exported, model, calibration, checked)
    columns = tuple(data.columns[position] for position in model.kept)
    manifest = _manifest(whole, recipe, model_name, window, columns, threshold, metrics_of(report))
    manifest = replace(
        manifest,
        golden_features=golden[:, model.kept].tolist(),
        golden_scores=calibration.apply(model.score(golden)).tolist(),
        budget_thresholds=_budget_thresholds(scores),
        reference=reference(data, held, scores, model.kept),
    )
    return Fitted(exported, manifest, report, recipe)


def _calibration_rows(data: TrainingSet, held: HeldOut) -> npt.NDArray[np.bool_]:
    """Which held-out payments are ordinary as far as can be known: old enough to have been reported, and not.

    Without as many of them as there must be frauds still to be reported, at the scores where those lie.
    Raises BadConfiguration where the label cut-off leaves too few.
    """
    fraud = data.label[held.rows]
    mature = ~fraud & ~data.too_young[held.rows]
    if mature.sum() < MIN_ROWS:
        raise BadConfiguration(
            f"{int(mature.sum())} of {len(held.rows)} held-out payments are old enough to have a label by "
            f"{data.labels_as_of:%Y-%m-%d %H:%M} and have none; {MIN_ROWS} are needed to calibrate",
            remedy="train on an earlier or longer window, or give a later --labels-as-of",
        )
    known = fraud & ~data.too_young[held.rows]
    share = data.reported_share[held.rows][known]
    mature[mature] = without_unreported(held.raw[mature], held.raw[known], share)
    return mature


def _budget_thresholds(scores: FloatArray) -> tuple[tuple[float, float], ...]:
    """For every budget that at least one held-out payment fills: the score that reaches it."""
    budgets = BUDGETS[BUDGETS * len(scores) >= 1]
    thresholds = np.quantile(scores, 1 - budgets, method="higher")
    return tuple(zip(budgets.tolist(), thresholds.tolist(), strict=True))


def _golden(data: TrainingSet, model: Model, scores: FloatArray, rows: npt.NDArray[np.int64]) -> FloatArray:
    """Golden rows [n, width]: evenly down the ranking, so that the steep tail is covered as well."""
    ranked = rows[np.argsort(scores, kind="stable")]
    ranked = ranked[np.concatenate([model.settled(x) for x in data.parts(ranked)])]
    return data.x[ranked[np.unique(np.linspace(0, len(ranked) - 1, GOLDEN_ROWS, dtype=int))]]


def _manifest(
    data: TrainingSet,
    recipe: Recipe,
    model_name: str,
    window: tuple[date, date],
    columns: tuple[str, ...],
    threshold: float,
    metrics: dict[str, float],
) -> Manifest:
    return Manifest(
        model_name=model_name,
        recipe=recipe.name,
        columns=columns,
        feature_set_id=features.feature_set_id(columns),
        threshold=threshold,
        alert_budget=recipe.alert_budget,
        train_from=window[0].isoformat(),
        train_to=window[1].isoformat(),
        labels_as_of=data.labels_as_of.isoformat(),
        labels_received=data.labels_received.isoformat(),
        payments_arrived=data.payments_arrived.isoformat() if data.payments_arrived else "",
        data_sha256=data.sha256(),
        dropped_columns=tuple(name for name in data.columns if name not in columns),
        metrics=metrics,
    )
