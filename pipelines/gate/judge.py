"""The gate without its servers: artefacts and rows in, a verdict out. Every check here has its name in §4."""

from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.gate import honesty
from pipelines.gate.comparison import WORSE, Comparison, Slice
from pipelines.gate.verdict import INSUFFICIENT_EVIDENCE, Check, Verdict
from pipelines.scoring import score_rows
from serving.artifact import Artifact
from training import evaluation, models, recipes
from training.bootstrap import FloatArray, Interval
from training.data import TrainingSet, Truth
from training.report import UNDETECTABLE

MIN_DAYS = 14
MIN_FRAUDS = 200
GAIN = 0.02  # AP by which a candidate must be better to improve
OVER_BASELINE = {"mahalanobis": 1.1}  # times its AP; the others have to be beaten, by however little
REASONS_SLACK = 0.05  # of the champion's hit rate: about two standard errors of 300 cases
MIN_REASONS = 50
RULE = "rule"  # the best single one: it takes known frauds to find it


@dataclass(frozen=True)
class Evidence:
    """What a version is judged by. `trained` is its training window as the data set holds it today.

    `window` holds mature labelled rows later than every training. Either is None where there is none.
    """

    candidate: Artifact
    champion: Artifact | None
    trained: TrainingSet | None
    window: TrainingSet | None
    truth: Truth | None
    now: datetime
    invalid: list[str] | None = field(default_factory=list)  # failures of validation; None without a data set
    attempts: int = 1  # how many times a version was judged on this window, this one included
    seed: int = 7


def judge(evidence: Evidence) -> Verdict:
    """Every check that can be made, whatever the others say; a refusal then names all of them."""
    candidate, window = evidence.candidate, evidence.window
    checks = [
        Check("artifact", True, "hash, weights, graph, live columns and golden rows are sound", integrity=True),
        _data_validation(evidence.invalid),
        *honesty.of_version(candidate, evidence.champion, evidence.trained, window, evidence.now),
    ]
    enough = _enough(window)
    checks.append(enough)
    numbers: dict[str, Any] = {"attempts": evidence.attempts, "window": described(window)}
    if window is None or not enough.passed:
        return Verdict(candidate.version, tuple(checks), numbers)
    mechanism, reason = evidence.truth.of(window.transaction_id) if evidence.truth else (None, None)
    comparison = Comparison(window, candidate.manifest.alert_budget, mechanism)
    scored = score_rows(candidate, window)
    score = np.ascontiguousarray(scored["score"])
    checks += honesty.of_scores(candidate, comparison, score)
    found, reference_name, reference = _against(evidence, comparison, score, numbers)
    checks += found
    numbers |= {
        "alert_budget": comparison.budget,
        "candidate": comparison.numbers(score),
        "reference": {"name": reference_name, **(comparison.numbers(reference) if reference is not None else {})},
    }
    if reference is not None:
        slices = comparison.slices(score, reference)
        numbers["slices"] = [part.as_json() for part in slices]
        checks.append(_slices(slices, evidence.champion is not None))
    checks.append(_reasons(evidence, window, scored, mechanism, reason, numbers))
    return Verdict(candidate.version, tuple(checks), numbers)


def _data_validation(invalid: list[str] | None) -> Check:
    if invalid is None:
        return Check("data_validation", None, "there is no such data set", integrity=True)
    return Check("data_validation", not invalid, "; ".join(invalid) or "the data set passes", integrity=True)


def _enough(window: TrainingSet | None) -> Check:
    days = 0 if window is None else len(np.unique(window.day))
    frauds = 0 if window is None else int(window.label.sum())
    said = f"{days} mature days and {frauds} frauds later than training, {MIN_DAYS} and {MIN_FRAUDS} are needed"
    return Check(INSUFFICIENT_EVIDENCE, days >= MIN_DAYS and frauds >= MIN_FRAUDS, said)


def described(window: TrainingSet | None) -> dict[str, Any]:
    """The window in a report: its days, inclusive, and what lies in them."""
    if window is None:
        return {"from": None, "to": None, "days": 0, "payments": 0, "frauds": 0}
    first, last = (date(1970, 1, 1) + timedelta(days=int(day)) for day in (window.day.min(), window.day.max()))
    return {
        "from": first.isoformat(),
        "to": last.isoformat(),
        "days": len(np.unique(window.day)),
        "payments": len(window),
        "frauds": int(window.label.sum()),
        "labels_as_of": window.labels_as_of.isoformat(),
    }


# ---- better than what serves, or than what is simple ------------------------------------------------


def _against(
    evidence: Evidence, comparison: Comparison, score: FloatArray, numbers: dict[str, Any]
) -> tuple[list[Check], str, FloatArray | None]:
    """The checks, and what the slices are held against: the champion, or the strongest baseline."""
    if evidence.champion is not None:
        other = np.ascontiguousarray(score_rows(evidence.champion, comparison.rows)["score"])
        gain = comparison.gain(score, other)
        numbers["gain"] = gain.as_json()
        return [_route(evidence.candidate, evidence.champion, gain, numbers)], "champion", other
    if evidence.trained is None:
        said = "the data set does not hold the training window, so no baseline can be fitted to it"
        return [Check("baselines", False, said)], "none", None
    numbers["route"] = "first"
    ours = evaluation.average_precision(score, comparison.rows.label)
    rivals = baselines(evidence.trained, comparison.rows, evidence.seed)
    rivals.pop(evidence.candidate.manifest.recipe, None)  # a baseline is promoted through the same gate
    found = {name: evaluation.average_precision(theirs, comparison.rows.label) for name, theirs in rivals.items()}
    numbers["baselines"] = found
    strongest = max(found, key=lambda name: found[name])
    return [_beats(name, ours, theirs) for name, theirs in found.items()], strongest, rivals[strongest]


def _route(candidate: Artifact, champion: Artifact, gain: Interval, numbers: dict[str, Any]) -> Check:
    said = f"AP gain {gain.value:+.3f}, 95 % from {gain.low:+.3f} to {gain.high:+.3f}"
    ours, theirs = candidate.manifest, champion.manifest
    if gain.value >= GAIN and gain.low > 0:
        numbers["route"] = "improve"
        return Check("improvement", True, said)
    kin = (ours.recipe, ours.feature_set_id) == (theirs.recipe, theirs.feature_set_id)
    if kin and ours.train_to > theirs.train_to:
        numbers["route"] = "refresh"
        return Check("refresh", gain.low > WORSE, f"{said}; the lower end must lie above {WORSE}")
    numbers["route"] = "improve"
    return Check("improvement", False, f"{said}; {GAIN:+} and an interval above 0 are needed")


def _beats(name: str, ours: float, theirs: float) -> Check:
    factor = OVER_BASELINE.get(name, 1.0)
    said = f"AP {ours:.3f} against {theirs:.3f}" + (f", {factor} times is needed" if factor != 1 else "")
    return Check(name, ours >= factor * theirs if factor != 1 else ours > theirs, said)


def baselines(trained: TrainingSet, window: TrainingSet, seed: int) -> dict[str, FloatArray]:
    """Scores of the window by what is simple, fitted to what the candidate was trained on, with every feature."""
    recipe = replace(recipes.default(), seed=seed)
    known = 0 < trained.label.sum() < len(trained)
    fitted = {
        name: models.fit(trained, replace(recipe, kind=name)) for name in models.BASELINES if known or name != RULE
    }
    return {name: model.score(window.x) for name, model in fitted.items()}


def _slices(slices: list[Slice], champion: bool) -> Check:
    """Nobody may be worse off than with what serves now; before a first champion nobody is served."""
    if not champion:
        return Check("slices", None, "no champion whose slices could be lost")
    lost = [part.name for part in slices if part.lost]
    return Check("slices", not lost, ", ".join(lost) or f"none of {len(slices)} is lost")


# ---- reasons ----------------------------------------------------------------------------------------


def _reasons(
    evidence: Evidence,
    window: TrainingSet,
    scored: npt.NDArray[np.void],
    mechanism: npt.NDArray[Any] | None,
    reason: npt.NDArray[Any] | None,
    numbers: dict[str, Any],
) -> Check:
    """The first reason is right as often as the champion's, where the true one is known."""
    if mechanism is None or reason is None:
        return Check("reasons", None, "the true mechanism of these payments is not known")
    ours = evaluation.reason_hits(scored["score"], scored["reasons"], mechanism, reason, UNDETECTABLE)
    numbers["reasons"] = {"candidate": ours}
    if ours["frauds"] < MIN_REASONS:
        return Check("reasons", None, f"{ours['frauds']} frauds in the top 1 %, {MIN_REASONS} are needed")
    if evidence.champion is None:
        return Check("reasons", None, f"first reason right in {ours['first']:.2f}; no champion to hold it against")
    other = score_rows(evidence.champion, window)
    theirs = evaluation.reason_hits(other["score"], other["reasons"], mechanism, reason, UNDETECTABLE)
    numbers["reasons"]["champion"] = theirs
    before = theirs.get("first", 0.0)
    return Check("reasons", ours["first"] >= before - REASONS_SLACK, f"first {ours['first']:.2f}, before {before:.2f}")
