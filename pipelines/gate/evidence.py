"""Reads what the gate judges by: both versions from the registry, their windows and labels from a data set."""

from datetime import date, datetime, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo import verdicts
from feature_repo.errors import ArtifactCorrupt, BadConfiguration, DataInvalid, FeatureSetMismatch
from feature_repo.settings import Settings
from pipelines import labels, quality
from pipelines.gate.judge import Evidence
from pipelines.gate.verdict import Check, Verdict
from pipelines.history import data_folder
from pipelines.versions import CHAMPION, Versions
from serving.artifact import Artifact, Manifest
from training.data import TrainingSet, load_training_set, load_truth


def unsound(version: str, error: ArtifactCorrupt | FeatureSetMismatch) -> Verdict:
    """Of an artefact that does not load: there is nothing else to judge."""
    name = error.check if isinstance(error, ArtifactCorrupt) else "feature_set"
    what = error.what if isinstance(error, ArtifactCorrupt) else str(error)
    return Verdict(version, (Check(name, False, what, integrity=True),))


def gather(settings: Settings, versions: Versions, candidate: Artifact, data: str, now: datetime) -> Evidence:
    """Everything but the count of attempts, which depends on the window found here.

    Labels are those that have arrived by now, table `labels` asked anew. Without such a data set there is no
    evidence. Raises DependencyDown.
    """
    champion = _champion(versions, candidate)
    if not data or not (data_folder(settings, data) / "history.parquet").is_file():
        return Evidence(candidate, champion, trained=None, window=None, truth=None, now=now, invalid=None)
    labels.fetch(settings, data)
    try:
        quality.require_valid(settings, data)
        invalid = []
    except DataInvalid as error:
        invalid = error.failures
    after = [candidate.manifest, *([champion.manifest] if champion else [])]
    return Evidence(
        candidate=candidate,
        champion=champion,
        trained=_training_window(settings, data, candidate.manifest),
        window=_window_after(settings, data, after, now),
        truth=load_truth(settings, data),
        now=now,
        invalid=invalid,
    )


def _champion(versions: Versions, candidate: Artifact) -> Artifact | None:
    """What serves now. One that cannot be loaded any more defends nothing: the candidate is then a first one."""
    current = versions.aliases().get(CHAMPION)
    if current is None or current == candidate.version:
        return None
    try:
        return versions.load(current)
    except (ArtifactCorrupt, FeatureSetMismatch):
        return None


def _training_window(settings: Settings, data: str, manifest: Manifest) -> TrainingSet | None:
    """The days the version says it was trained on, with the labels it could know; None where the data set has none
    of them, or no features.

    A label that came in after training is no correction of its data, though it may speak of an earlier day; nor is a
    late payment of a live data set exported anew.
    """
    first, last = manifest.first_day, manifest.last_day
    cut = datetime.fromisoformat(manifest.labels_as_of)
    received = datetime.fromisoformat(manifest.labels_received) if manifest.labels_received else verdicts.NONE_RECEIVED
    arrived = datetime.fromisoformat(manifest.payments_arrived) if manifest.payments_arrived else None
    try:
        return load_training_set(settings, data, first, last, cut, received, arrived)
    except BadConfiguration:
        return None


def _window_after(settings: Settings, data: str, after: list[Manifest], now: datetime) -> TrainingSet | None:
    """Payments later than every training, of days that are old enough for half of their frauds to be known."""
    first = max(manifest.last_day for manifest in after) + timedelta(days=1)
    last = min(days_of(settings, data)[1], now.date())
    if last < first:
        return None
    try:
        rows = load_training_set(settings, data, first, last, now)
    except BadConfiguration:  # no payment in those days, or none with features
        return None
    mature = rows.mature()
    return mature if len(mature) else None


def days_of(settings: Settings, data: str) -> tuple[date, date]:
    """First and last day of the data set's payments, UTC."""
    path = data_folder(settings, data) / "history.parquet"
    ends = pc.min_max(pq.read_table(path, columns=["event_time"])["event_time"]).as_py()
    return ends["min"].date(), ends["max"].date()
