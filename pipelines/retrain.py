"""A challenger where drift or the calendar asks for one: the champion's recipe on newer days. It never promotes.

The window is as long as the champion's and ends on the newest day whose labels are mature: a longer one would hold
more of what is no more, a later one would be calibrated on fraud nobody has reported yet. The gate's window lies after
it, so a verdict with evidence comes weeks later; until then the challenger is scored beside the champion.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines import labels, live, quality
from pipelines.challenger import set_challenger
from pipelines.drift.run import watch
from pipelines.gate.evidence import days_of
from pipelines.versions import CHAMPION, SHOWN_METRICS, Versions
from serving.artifact import Artifact, Manifest
from training import recipes
from training.data import load_training_set
from training.recipes import Recipe
from training.registration import mlflow_client, register
from training.train import fit

REPORT = "retrain.json"  # among the artefacts of the new version's run


@dataclass(frozen=True)
class Retrained:
    """What was done and why; `version` is None where there was no reason to."""

    champion: str
    data: str
    why: list[str]
    version: str | None = None
    train_from: str | None = None
    train_to: str | None = None
    recipe: str | None = None
    metrics: dict[str, dict[str, float]] | None = None  # held-out, of champion and challenger, each on its own window

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def retrain(
    settings: Settings,
    data: str | None,
    actor: str,
    now: datetime,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Retrained:
    """Judge the champion's drift on `data` and, on an alarm or with `force`, train, register and put on trial.

    Without `data`, on live decisions, exported as data set `live` from the champion's first day of training on: nothing
    older is judged or trained on. Labels count as far as they had arrived by `now`. Raises BadConfiguration without a
    champion, for an unknown data set, and where no mature day is newer than the champion's training; DataInvalid,
    DependencyDown.
    """
    versions = Versions(settings)
    champion = versions.load(versions.resolve(CHAMPION))
    if data is None:
        progress("exporting")
        data = live.export(settings, live.LIVE, champion.manifest.first_day, with_history=True).name
    if force:
        labels.fetch(settings, data)
        why = ["asked for"]
    else:
        why = _alarms(settings, champion, data, now, progress)
    if not why:
        return Retrained(champion.version, data, why)
    progress("validating")
    quality.require_valid(settings, data)
    first, last = window(settings, champion.manifest, data, now)
    recipe = recipe_of(settings, versions, champion)
    fitted = fit(settings, data, first, last, None, recipe, progress)
    progress("registering")
    version = register(settings, fitted)
    done = Retrained(
        champion.version, data, why, version, first.isoformat(), last.isoformat(), recipe.name,
        {"champion": _compared(champion.manifest), "challenger": _compared(fitted.manifest)},
    )  # fmt: skip
    _report(settings, versions, done)
    set_challenger(settings, version, actor)
    return done


def window(settings: Settings, champion: Manifest, data: str, now: datetime) -> tuple[date, date]:
    """First and last day to train on. Raises BadConfiguration where no mature day is newer than the champion's."""
    begins, ends = days_of(settings, data)
    delay = load_training_set(settings, data, ends, ends, now).label_delay
    last = min(ends, (now - delay).date() - timedelta(days=1))
    trained_to = champion.last_day
    if last <= trained_to:
        raise BadConfiguration(
            f"the champion was trained up to {trained_to}, and no later day of {data} has mature labels "
            f"(median delay {delay.total_seconds() / 86_400:.1f} days)"
        )
    days = trained_to - champion.first_day
    return max(begins, last - days), last


def recipe_of(settings: Settings, versions: Versions, champion: Artifact) -> Recipe:
    """The champion's, single settings included as its run has them, with the alert budget it serves with."""
    manifest = champion.manifest
    with mlflow_client(settings) as mlflow:
        logged = mlflow.MlflowClient().get_run(versions.run_of(champion.version)).data.params
    plain = recipes.named(manifest.recipe)
    changed = {one.name: logged[one.name] for one in fields(Recipe) if one.name != "name" and one.name in logged}
    changed |= {"alert_budget": str(manifest.alert_budget)}
    overrides = [f"{key}={value}" for key, value in changed.items() if str(getattr(plain, key)) != value]
    return recipes.named(manifest.recipe, overrides)


def _alarms(
    settings: Settings, champion: Artifact, data: str, now: datetime, progress: Callable[[str], None]
) -> list[str]:
    """The first alarm of each statistic that drifted, in words."""
    progress("looking for drift")
    first = {
        alarm.statistic: alarm
        for alarm in reversed(watch(settings, champion.version, data, None, None, now).drift.alarms)
    }
    return [f"{alarm.statistic} {alarm.value:.3g} on {alarm.day}" for alarm in first.values()]


def _compared(manifest: Manifest) -> dict[str, float]:
    return {name: manifest.metrics[name] for name in SHOWN_METRICS.values() if name in manifest.metrics}


def _report(settings: Settings, versions: Versions, done: Retrained) -> None:
    assert done.version is not None, "there is a run to keep it with"
    with mlflow_client(settings) as mlflow:
        mlflow.MlflowClient().log_dict(versions.run_of(done.version), done.as_json(), REPORT)
