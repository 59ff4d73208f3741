"""Finds the payments to compare two registered versions on, and compares them."""

from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines import labels
from pipelines.compare import live, paired
from pipelines.compare.paired import Pair, Payments
from pipelines.gate.comparison import Comparison, Slice
from pipelines.gate.evidence import days_of
from pipelines.history import data_folder
from pipelines.scoring import score_rows
from pipelines.versions import Versions
from serving.artifact import Artifact
from training.data import TrainingSet, load_training_set, load_truth

LIVE = "live traffic"


@dataclass(frozen=True)
class Question:
    """What is asked: two versions, numbers or aliases. Days are inclusive, UTC; `budget` a share of all payments."""

    a: str
    b: str
    data: str | None = None  # data set; without one, live traffic that carries both scores, if there is any
    first: date | None = None
    last: date | None = None
    budget: float | None = None  # of A where none is given


@dataclass(frozen=True)
class Compared:
    """The answer. `slices` only where the payments are those of a data set."""

    a: str
    b: str
    on: str
    first: date
    last: date
    budget: float
    payments: int
    labelled: int
    frauds: int
    agreement: dict[str, Any]
    metrics: list[Pair]
    slices: list[Slice] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "on": self.on,
            "from": self.first.isoformat(),
            "to": self.last.isoformat(),
            "alert_budget": self.budget,
            "payments": self.payments,
            "labelled": self.labelled,
            "frauds": self.frauds,
            **self.agreement,
            "metrics": [pair.as_json() for pair in self.metrics],
            "slices": [part.as_json() for part in self.slices],
        }


def compare(settings: Settings, asked: Question, now: datetime) -> Compared:
    """`now` is when labels must have arrived by.

    Raises BadConfiguration for unknown versions, a data set or days there are none of, and one version twice;
    ArtifactCorrupt, FeatureSetMismatch, DependencyDown.
    """
    versions = Versions(settings)
    a, b = (versions.resolve(version) for version in (asked.a, asked.b))
    if a == b:
        raise BadConfiguration(f"{asked.a} and {asked.b} are the same version {a}")
    ours, theirs = versions.load(a), versions.load(b)
    budget = ours.manifest.alert_budget if asked.budget is None else asked.budget
    found = live.read(settings, a, b, asked.first, asked.last) if asked.data is None else None
    if found is not None:
        # Labels are still arriving: what was caught of the frauds known so far, nothing that needs all of them.
        metrics = paired.caught(found.payments, budget)
        return _compared(found.payments, a, b, LIVE, budget, found.labelled, metrics)
    return _on_data(settings, ours, theirs, asked, budget, now)


def _on_data(
    settings: Settings, ours: Artifact, theirs: Artifact, asked: Question, budget: float, now: datetime
) -> Compared:
    name = asked.data or theirs.manifest.data_name or settings.data
    rows = _window(settings, name, (ours, theirs), asked, now)
    truth = load_truth(settings, name)
    comparison = Comparison(rows, budget, truth.of(rows.transaction_id)[0] if truth else None)
    a, b = (np.ascontiguousarray(score_rows(artifact, rows)["score"]) for artifact in (ours, theirs))
    payments = Payments(a, b, rows.label, comparison.users.codes, rows.day, rows.amount)
    metrics = paired.judged(payments, budget, comparison.users)
    done = _compared(payments, ours.version, theirs.version, f"data set {name}", budget, len(rows), metrics)
    return replace(done, slices=comparison.slices(b, a)) if metrics else done


def _window(
    settings: Settings, name: str, artifacts: tuple[Artifact, Artifact], asked: Question, now: datetime
) -> TrainingSet:
    """Days after both trainings that are old enough for half of their frauds to be known."""
    if not (data_folder(settings, name) / "history.parquet").is_file():
        raise BadConfiguration(f"there is no data set {name} to compare on", remedy="vigil import or --data NAME")
    trained = max(artifact.manifest.last_day for artifact in artifacts)
    first = asked.first or trained + timedelta(days=1)
    last = asked.last or min(days_of(settings, name)[1], now.date())
    if first <= trained:
        raise BadConfiguration(f"one of the two was trained up to {trained}: they are compared on later days")
    if last < first:
        raise BadConfiguration(f"data set {name} has no day after {trained}, the end of training, to compare on")
    labels.fetch(settings, name)
    rows = load_training_set(settings, name, first, last, now)
    mature = rows.mature()
    if not len(mature):
        raise BadConfiguration(f"no day from {first} to {last} is old enough for its frauds to be known")
    return mature


def _compared(
    payments: Payments, a: str, b: str, on: str, budget: float, labelled: int, metrics: list[Pair]
) -> Compared:
    first, last = (date(1970, 1, 1) + timedelta(days=int(day)) for day in (payments.day.min(), payments.day.max()))
    return Compared(
        a=a,
        b=b,
        on=on,
        first=first,
        last=last,
        budget=budget,
        payments=len(payments),
        labelled=labelled,
        frauds=int(payments.fraud.sum()),
        agreement=paired.agreement(payments, budget),
        metrics=metrics,
    )
