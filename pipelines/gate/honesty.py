"""Is the version what it says it is? Claims of its manifest beside what the data and the window show.

Each check has the name of what it catches; what it cannot be made with is skipped, and said.
"""

from datetime import date, datetime, timedelta

import numpy as np

from pipelines.gate.comparison import Comparison
from pipelines.gate.verdict import Check
from serving.artifact import Artifact, Manifest
from training import evaluation
from training.bootstrap import FloatArray
from training.data import TrainingSet

KNOWS_NOTHING = 2.0  # times the prevalence: held-out AP below it is what a ranking by chance has
MIN_CLAIM_FRAUDS = 50  # held-out frauds for such a claim to mean something
CLAIM_SLACK, CLAIM_FACTOR = 0.15, 1.5  # AP above the window's interval, and times its value, that no drift explains
TOLD_BY_ONE = 0.98  # AP of one column alone: a fraud is then not found but told
OFF_BY = 3.0  # times what is promised, either way
NOISE = 5.0  # standard deviations a count must be off as well, so that a short window is no reason
CALIBRATED = {0.25: 0.1, 0.5: 0.01}  # score -> share of ordinary payments; unreported frauds blur what is rarer


def of_version(
    candidate: Artifact,
    champion: Artifact | None,
    trained: TrainingSet | None,
    window: TrainingSet | None,
    now: datetime,
) -> list[Check]:
    """What needs no scores."""
    manifest = candidate.manifest
    return [
        _column_order(manifest, trained),
        _training_data(manifest, trained),
        _label_cut(manifest, trained, now),
        _window(manifest, champion, window),
        _claimed_lift(manifest),
    ]


def of_scores(candidate: Artifact, comparison: Comparison, score: FloatArray) -> list[Check]:
    """What the window's scores show; it holds frauds and ordinary payments."""
    manifest = candidate.manifest
    return [
        _knows_labels(comparison, score),
        _claim_holds(manifest, comparison, score),
        _not_told(manifest, comparison),
        _calibrated(comparison, score),
        _threshold(manifest, score),
    ]


def _column_order(manifest: Manifest, trained: TrainingSet | None) -> Check:
    """A golden row is a row of the training window: under other names, or in another order, it is none."""
    if trained is None:
        return Check("column_order", None, "the data set does not hold the training window", integrity=True)
    chosen = [trained.columns.index(name) for name in manifest.columns]
    known = {row.tobytes() for row in np.ascontiguousarray(trained.x[:, chosen])}
    golden = np.asarray(manifest.golden_features, np.float32)
    found = sum(row.tobytes() in known for row in golden)
    said = f"{found} of {len(golden)} golden rows are payments of the training window"
    return Check("column_order", 2 * found > len(golden), said, integrity=True)


def _training_data(manifest: Manifest, trained: TrainingSet | None) -> Check:
    """A later correction of the history fails here too, so an override covers it."""
    if trained is None:
        return Check("training_data", None, "the data set does not hold the training window")
    same = trained.sha256() == manifest.data_sha256
    said = "is what it was trained on" if same else "differs from what it was trained on: features, labels or rows"
    return Check("training_data", same, f"the training window {said}")


def _label_cut(manifest: Manifest, trained: TrainingSet | None, now: datetime) -> Check:
    """Labels that have not arrived cannot be known. The default cut-off, one median delay after the last day
    of training, may lie a little ahead of the clock: nothing has arrived by then that is not known now."""
    if trained is None:
        return Check("future_labels", None, "the data set does not hold the training window", integrity=True)
    cut = datetime.fromisoformat(manifest.labels_as_of)
    latest = now + trained.label_delay + timedelta(days=1)
    said = f"labels as of {cut:%Y-%m-%d %H:%M}, judged {now:%Y-%m-%d %H:%M}"
    return Check("future_labels", cut <= latest, said, integrity=True)


def _window(manifest: Manifest, champion: Artifact | None, window: TrainingSet | None) -> Check:
    """Neither version may have trained on a day it is judged by."""
    if window is None:
        return Check("window_after_training", None, "there is no window", integrity=True)
    last = max(one.last_day for one in (manifest, *([champion.manifest] if champion else [])))
    first = int(window.day.min())
    said = f"training ends {last}, the window begins {np.datetime64(first, 'D')}"
    return Check("window_after_training", first > (last - date(1970, 1, 1)).days, said, integrity=True)


def _claimed_lift(manifest: Manifest) -> Check:
    """With labels shuffled, held-out average precision is the prevalence."""
    claims = manifest.metrics
    claimed, prevalence = claims.get("held_out_average_precision"), claims.get("held_out_prevalence")
    if claimed is None or prevalence is None or claims.get("held_out_frauds", 0) < MIN_CLAIM_FRAUDS:
        return Check("shuffled_labels", None, "too few held-out frauds to tell", integrity=True)
    said = f"held-out AP {claimed:.3f} at a prevalence of {prevalence:.4f}"
    return Check("shuffled_labels", claimed >= KNOWS_NOTHING * prevalence, said, integrity=True)


def _knows_labels(comparison: Comparison, score: FloatArray) -> Check:
    precision, _ = comparison.average_precision(score)
    prevalence = float(comparison.rows.label.mean())
    said = f"AP {precision.value:.3f}, lower end {precision.low:.3f}, at a prevalence of {prevalence:.4f}"
    return Check("knows_labels", precision.low > prevalence, said, integrity=True)


def _claim_holds(manifest: Manifest, comparison: Comparison, score: FloatArray) -> Check:
    """What a version knew from the future it does not know of the window."""
    claimed = manifest.metrics.get("held_out_average_precision")
    if claimed is None or manifest.metrics.get("held_out_frauds", 0) < MIN_CLAIM_FRAUDS:
        return Check("leakage", None, "the version claims no average precision", integrity=True)
    precision, _ = comparison.average_precision(score)
    said = f"held-out AP {claimed:.3f}, on the window {precision.value:.3f}, at most {precision.high:.3f}"
    beyond = claimed > precision.high + CLAIM_SLACK and claimed > CLAIM_FACTOR * precision.value
    return Check("leakage", not beyond, said, integrity=True)


def _not_told(manifest: Manifest, comparison: Comparison) -> Check:
    """A column that ranks fraud on its own this well holds the label."""
    rows = comparison.rows
    best, best_name = 0.0, ""
    for name in manifest.columns:
        values = rows.x[:, rows.columns.index(name)]
        found = max(evaluation.average_precision(sign * values, rows.label) for sign in (1, -1))
        best, best_name = max((best, best_name), (found, name))
    said = f"best alone: {best_name}, AP {best:.3f}"
    return Check("label_in_a_column", best < TOLD_BY_ONE, said, integrity=True)


def _calibrated(comparison: Comparison, score: FloatArray) -> Check:
    ordinary = score[~comparison.rows.label]
    found = {level: float((ordinary >= np.float32(level)).mean()) for level in CALIBRATED}
    wrong = [level for level, share in CALIBRATED.items() if _off(found[level], share, len(ordinary))]
    said = ", ".join(f"{found[level]:.4f} reach {level} (promised {share})" for level, share in CALIBRATED.items())
    return Check("stale_calibration", not wrong, f"of ordinary payments {said}")


def _threshold(manifest: Manifest, score: FloatArray) -> Check:
    alerts = float((score >= np.float32(manifest.threshold)).mean())
    said = f"{alerts:.4f} of payments alert at {manifest.threshold:.4f}, the budget is {manifest.alert_budget:.4f}"
    return Check("inflated_threshold", not _off(alerts, manifest.alert_budget, len(score)), said)


def _off(found: float, promised: float, rows: int) -> bool:
    far = not promised / OFF_BY <= found <= promised * OFF_BY
    return far and abs(found - promised) * rows > NOISE * (promised * rows) ** 0.5
