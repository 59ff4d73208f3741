"""Drift of a registered version on a data set: read, judge, write where the version lives.

The live side is a data set's vectors, as for the gate: what the stream would have computed for those payments.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines import labels
from pipelines.drift import report
from pipelines.drift.judge import Drift, drift
from pipelines.gate.evidence import days_of
from pipelines.history import data_folder
from pipelines.versions import Versions
from training.data import load_training_set


@dataclass(frozen=True)
class Watched:
    """A report with what it was made of."""

    said: dict[str, Any]  # JSON
    drift: Drift


def watch(
    settings: Settings, model: str, data: str | None, first: date | None, last: date | None, now: datetime
) -> Watched:
    """`model` is a version, `latest` or an alias; `now` is when labels must have arrived by.

    `data` is by default what the version was trained on, the window all its days after training. Raises
    BadConfiguration for an unknown version or data set, and where no day lies in the window; DependencyDown.
    """
    versions = Versions(settings)
    version = versions.resolve(model)
    artifact = versions.load(version)
    name = data or artifact.manifest.data_name
    if not name:
        raise BadConfiguration(f"version {version} does not say what data set it was trained on", remedy="--data NAME")
    if not (data_folder(settings, name) / "history.parquet").is_file():
        raise BadConfiguration(f"there is no data set {name} to look at", remedy="vigil import or --data NAME")
    begins = artifact.manifest.last_day + timedelta(days=1)
    first, last = first or begins, last or min(days_of(settings, name)[1], now.date())
    if first < begins:
        raise BadConfiguration(f"version {version} was trained up to {artifact.manifest.train_to}: drift comes after")
    if last < first:
        raise BadConfiguration(f"data set {name} ends on {last}, there is no day from {first} on to look at")
    labels.fetch(settings, name)
    rows = load_training_set(settings, name, first, last, now)
    found = drift(artifact, rows)
    said = {
        "version": version,
        "data": name,
        "from": first.isoformat(),
        "to": last.isoformat(),
        "labels_as_of": now.isoformat(timespec="seconds"),
        **found.as_json(),
    }
    run_id = versions.run_of(version)
    if run_id:
        report.log(settings, run_id, said, found)
    return Watched(said, found)
