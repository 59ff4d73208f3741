"""What a training run says about itself: one JSON document and one page of curves."""

from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training import evaluation
from training.calibration import Calibration
from training.data import TrainingSet, Truth
from training.detector import Detector
from training.heldout import HeldOut
from training.models import Model
from training.recipes import Recipe
from training.weights import DECIMALS

FloatArray = npt.NDArray[np.float32]

LOSS_POINTS = 100  # per network
AMOUNT_QUANTILES = (0.25, 0.5, 0.75, 0.95)
USER_AGES = (5, 20, 100)  # earlier payments; under the first a user is not compared with himself
UNDETECTABLE = frozenset({"mimicry", "slow_mimicry"})  # made to look ordinary: no reason is right (MODELS.md §3)


def describe(
    data: TrainingSet,
    held: HeldOut,
    scores: FloatArray,
    ordinary: npt.NDArray[np.bool_],
    calibration: Calibration,
    threshold: float,
    model: Model,
    recipe: Recipe,
    truth: Truth | None,
) -> dict[str, Any]:
    """The report of one run; `scores` are the held-out rows' anomaly scores, `ordinary` what was calibrated on."""
    rows = data.take(held.rows)
    user = rows.user_id.dictionary_encode().indices.to_numpy().astype(np.int64)
    alerts = scores >= np.float32(threshold)

    def judged(values: FloatArray) -> dict[str, float]:
        return evaluation.evaluate(values, rows.label, user, rows.day, rows.amount, recipe.alert_budget)

    return {
        "rows": {
            "in_window": len(data),
            "without_features": data.without_features,
            "known_fraud": int(data.label.sum()),
            "with_label": int(data.label_known.sum()),
            "too_young": int(data.too_young.sum()),
            "trained_on": int((~data.label).sum()),
            "held_out": len(held.rows),
            "calibrated_on": int(ordinary.sum()),
            "taken_for_unreported": int((~rows.label & ~rows.too_young).sum() - ordinary.sum()),
        },
        "label_sources": dict(data.label_sources),
        "median_label_delay_days": data.label_delay.total_seconds() / 86_400,
        "held_out": judged(scores),
        "intervals": evaluation.with_intervals(scores, rows.label, user, rows.amount, alerts),
        "slices": _slices(rows, scores, alerts, truth),
        "columns": {
            "kept": [data.columns[place] for place in model.kept],
            "dropped": [name for place, name in enumerate(data.columns) if place not in model.kept],
            "weights": _weights(data, model),
        },
        "baselines": {name: judged(values) for name, values in held.baselines.items()},
        "reasons": _reasons(rows, held, scores, truth),
        "calibration": calibration.report() | _calibration_curve(scores[ordinary]),
        "curves": evaluation.curves(scores, rows.label),
        "alert_share_by_day": _alerts_by_day(rows, scores, recipe.alert_budget),
        "loss": [_thinned(losses) for losses in model.losses],
    }


def _weights(data: TrainingSet, model: Model) -> dict[str, float]:
    """How much each column's evidence counts, the heaviest first; nothing for a kind that does not weigh them."""
    if not isinstance(model, Detector):
        return {}
    weights = zip(model.kept, model.weights.tolist(), strict=True)
    return {data.columns[place]: round(weight, DECIMALS) for place, weight in sorted(weights, key=lambda p: -p[1])}


def _slices(
    rows: TrainingSet, scores: FloatArray, alerts: npt.NDArray[np.bool_], truth: Truth | None
) -> dict[str, dict[str, dict[str, float]]]:
    """By user age and amount, and by mechanism where the truth is known."""
    groups = {"amount": _banded(rows.amount, np.quantile(rows.amount, AMOUNT_QUANTILES))}
    if "history" in rows.columns:
        past = np.expm1(rows.x[:, rows.columns.index("history")].astype(np.float64))
        groups["user_age"] = _banded(np.round(past), np.array(USER_AGES))
    found = {name: evaluation.slices(scores, rows.label, alerts, group) for name, group in groups.items()}
    if truth is not None:
        mechanism, _ = truth.of(rows.transaction_id)
        found["mechanism"] = evaluation.by_mechanism(scores, mechanism, rows.amount, alerts)
    return found


def _banded(values: npt.NDArray[Any], edges: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which values lie in each of the bands that `edges` cut, by names numbered from the lowest."""
    shown = [f"{edge:,.0f}" for edge in edges]
    names = [f"1: under {shown[0]}"]
    names += [f"{place}: {low} to {high}" for place, (low, high) in enumerate(pairwise(shown), start=2)]
    names.append(f"{len(edges) + 1}: {shown[-1]} or more")
    band = np.searchsorted(edges, values, side="right")
    return {name: band == place for place, name in enumerate(names)}


def _reasons(rows: TrainingSet, held: HeldOut, scores: FloatArray, truth: Truth | None) -> dict[str, Any]:
    """Hit rates where the truth is known; else they are skipped, and the report says so."""
    if truth is None:
        return {"skipped": "the true mechanism of these payments is not known"}
    mechanism, reason = truth.of(rows.transaction_id)
    true = truth.true_reasons(rows.transaction_id)
    return evaluation.reason_hits(scores, held.reasons, mechanism, reason, UNDETECTABLE, true)


def _calibration_curve(ordinary_scores: FloatArray) -> dict[str, Any]:
    """Share of ordinary held-out payments at or above the scores that promise one."""
    promised = {"0.25": 0.1, "0.5": 0.01, "0.75": 0.001, "0.9": 0.0001}
    return {
        "share_at_or_above": {
            level: {"promised": share, "measured": float((ordinary_scores >= float(level)).mean())}
            for level, share in promised.items()
        }
    }


def _alerts_by_day(rows: TrainingSet, scores: FloatArray, budget: float) -> dict[str, float]:
    alerts = evaluation.top(scores, budget)
    return {
        date.fromordinal(date(1970, 1, 1).toordinal() + int(day)).isoformat(): float(alerts[rows.day == day].mean())
        for day in np.unique(rows.day)
    }


def _thinned(losses: tuple[float, ...]) -> list[float]:
    """Mean loss over LOSS_POINTS stretches of the training."""
    parts = np.array_split(np.asarray(losses), min(LOSS_POINTS, max(1, len(losses))))
    return [float(part.mean()) for part in parts if len(part)]


def metrics_of(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report, flat, for MLflow and the manifest: `held_out_auc`, `mahalanobis_auc`, …"""
    flat = {f"held_out_{name}": value for name, value in report["held_out"].items()}
    for baseline, values in report["baselines"].items():
        flat |= {f"{baseline}_{name}": value for name, value in values.items() if name not in ("rows", "frauds")}
    flat |= {f"rows_{name}": float(value) for name, value in report["rows"].items()}
    reasons = report["reasons"]
    flat |= {
        f"reason_{name}": reasons[name] for name in ("first", "first_three", "main", "main_three") if name in reasons
    }
    return flat


def draw(report: dict[str, Any], title: str, path: Path) -> None:
    """Four curves on one page: precision and recall, ROC, loss, alerts by day."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import; no display needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    precision, roc, loss, alerts = figure.subplots(2, 2).flat
    curve = report["curves"]
    if curve:
        precision.plot(curve["recall"], curve["precision"])
        roc.plot(curve["false_positive_rate"], curve["recall"])
        roc.set_xscale("log")
    precision.set(title="held-out payments", xlabel="recall", ylabel="precision", ylim=(0, 1))
    roc.set(title="held-out payments", xlabel="false positive rate", ylabel="recall", ylim=(0, 1))
    for member, values in enumerate(report["loss"], start=1):
        loss.plot(values, label=f"network {member}")
    loss.set(title="training", xlabel="percent of the steps", ylabel="reconstruction error", yscale="log")
    if report["loss"]:
        loss.legend()
    days = report["alert_share_by_day"]
    alerts.bar([datetime.fromisoformat(day) for day in days], list(days.values()))
    alerts.set(title="alerts at budget", ylabel="share of payments")
    alerts.tick_params(axis="x", rotation=60)
    figure.savefig(path, dpi=110)
