"""Day by day, how far payments have drifted from what a version was calibrated on: rows in, a report out.

In the order of MODELS.md §4: alert rate at the fixed threshold, score PSI, PSI of each feature, mix of reasons,
average precision once labels are there. Every statistic is brought to one number, its strength: the distance from
the reference over the most that sampling error, ordinary days and a floor explain. An alarm is two days in a row whose
strengths have a geometric mean above 1, or one day above EXTREME: a single odd day is no regime.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.errors import BadConfiguration
from pipelines.scoring import score_rows
from serving.artifact import Artifact, Manifest
from serving.reference import MOVING, Histogram, Reference
from training import bootstrap, evaluation
from training.bootstrap import BoolArray, FloatArray, Users
from training.data import TrainingSet

MIN_PAYMENTS = 200  # of a day: below, ten bins hold too little each
MIN_REASONS = 30
MIN_FRAUDS = 30  # reported, of the days whose average precision is taken
SIGMAS = 4.0  # 30 statistics on 56 days: 1,700 chances of an accident
EXTREME = 3.0  # strength that needs no second day

# Simulator, 2026-11: in eight stationary weeks scores move by a PSI of up to 0.03 beyond ordinary days once the MOVING
# columns are settled (0.28 as served), the others by up to 0.02; its regime change moves amounts by 0.08 to 0.13.
SCORE_FLOOR = 0.05
FEATURE_FLOOR = 0.04
REASON_FLOOR = 0.1
ALERT_FACTOR = 2.0  # alert rate over budget, or budget over alert rate
PRECISION_SHARE = 0.5  # of the average precision at training, below which it is lost
PRECISION_DAYS = 7  # a day alone has too few frauds
BURST = 3.0  # frauds per stolen card, so alerts vary more than independent ones (simulator, 2026-11)
REPLICATES = 200

ALERT_RATE, SCORE, REASONS, PRECISION = "alert_rate", "score_psi", "reasons_psi", "average_precision"
AS_SERVED = "score_psi_as_served"  # with the MOVING columns as they are: shown and never judged, as they themselves
FEATURE = "psi_"  # and the feature's name


@dataclass(frozen=True)
class Reading:
    """A statistic of one day. `seen` counts what it was taken of; without enough of it there is no strength."""

    value: float | None
    strength: float | None
    seen: int


@dataclass(frozen=True)
class Day:
    """Statistics by name, in the order they are to be read."""

    day: date
    payments: int
    readings: dict[str, Reading]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"day": self.day.isoformat()}


@dataclass(frozen=True)
class Alarm:
    """`strength` is that of the `days`, one or two, up to and including `day`; `value` that day's."""

    day: date
    statistic: str
    value: float
    strength: float
    days: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"day": self.day.isoformat()}


@dataclass(frozen=True)
class Drift:
    """Every day of the window that has a payment, and the alarms, earliest first."""

    days: list[Day]
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def too_small(self) -> list[Day]:
        """Days of which nothing can be said."""
        return [day for day in self.days if day.payments < MIN_PAYMENTS]

    def as_json(self) -> dict[str, Any]:
        return {
            "alarm": bool(self.alarms),
            "alarms": [alarm.as_json() for alarm in self.alarms],
            "days": [day.as_json() for day in self.days],
            "days_too_small": [day.day.isoformat() for day in self.too_small],
        }


def drift(artifact: Artifact, rows: TrainingSet) -> Drift:
    """Of a window's `rows` by this version.

    Raises BadConfiguration for a version that was registered without a reference.
    """
    manifest = artifact.manifest
    if manifest.reference is None:
        raise BadConfiguration(
            "this version does not say what its payments looked like in training", remedy="train a new version"
        )
    scored = score_rows(artifact, rows)
    precision = Precision.of(manifest, rows, np.ascontiguousarray(scored["score"]))
    days = []
    for day in np.unique(rows.day):
        today = rows.day == day
        read = readings(artifact, manifest.reference, rows.take(today), scored[today])
        days.append(Day(_date(day), int(today.sum()), read))
    for day in days:
        day.readings[PRECISION] = precision.until(day.day)
    return Drift(days, list(alarms(days)))


def readings(
    artifact: Artifact, reference: Reference, rows: TrainingSet, scored: npt.NDArray[np.void]
) -> dict[str, Reading]:
    """Everything but average precision of the rows of one day."""
    manifest, score = artifact.manifest, scored["score"]
    settled = score_rows(artifact, replace(rows, x=reference.settled(rows.x, rows.columns)))["score"]
    alerts = int((score >= np.float32(manifest.threshold)).sum())
    found = {
        ALERT_RATE: alert_rate(alerts, len(score), manifest.alert_budget),
        SCORE: shift(reference.score, settled, SCORE_FLOOR, MIN_PAYMENTS),
        AS_SERVED: shown(shift(reference.score, score, SCORE_FLOOR, MIN_PAYMENTS)),
    }
    for name in manifest.columns:
        reading = shift(reference.features[name], rows.x[:, rows.columns.index(name)], FEATURE_FLOOR, MIN_PAYMENTS)
        found[FEATURE + name] = shown(reading) if name in MOVING else reading
    reasons = scored["reasons"][score >= reference.reasons_from, 0]
    found[REASONS] = shift(reference.reasons, reasons, REASON_FLOOR, MIN_REASONS)
    return found


def shown(reading: Reading) -> Reading:
    """A number to look at, which is not judged."""
    return replace(reading, strength=None)


def alert_rate(alerts: int, payments: int, budget: float) -> Reading:
    """Share of alerts against the budget the threshold was set for, compared as roots: their spread is the same
    whatever the count."""
    if payments < MIN_PAYMENTS:
        return Reading(alerts / payments if payments else None, None, payments)
    expected = budget * payments
    noise = SIGMAS * np.sqrt(BURST) / 2
    distance = np.sqrt(alerts) - np.sqrt(expected)
    allowed = (np.sqrt(ALERT_FACTOR) - 1) if distance > 0 else (1 - np.sqrt(1 / ALERT_FACTOR))
    return Reading(alerts / payments, float(abs(distance) / (allowed * np.sqrt(expected) + noise)), payments)


def shift(histogram: Histogram, values: npt.NDArray[Any], floor: float, least: int) -> Reading:
    """PSI of `values` [n] beyond chance, against what ordinary days, sampling error and the floor explain."""
    if len(values) < least or not sum(histogram.counts):
        return Reading(None, None, len(values))
    counts = histogram.count(values)
    limit = histogram.usual + floor + SIGMAS * histogram.chance(counts)[1]
    excess = histogram.excess(counts)
    return Reading(excess, max(excess, 0.0) / limit, len(values))


@dataclass(frozen=True)
class Precision:
    """Average precision over the last mature days, against that of training's held-out days."""

    rows: TrainingSet
    score: FloatArray
    mature: BoolArray  # [n], of days all of whose payments are old enough for half of their frauds to be known
    users: Users
    trained: float | None

    @classmethod
    def of(cls, manifest: Manifest, rows: TrainingSet, score: FloatArray) -> "Precision":
        young = np.unique(rows.day[rows.too_young])
        users = Users.drawn(np.asarray(rows.user_id.to_pylist()), REPLICATES)
        trained = manifest.metrics.get("held_out_average_precision")
        return cls(rows, score, ~np.isin(rows.day, young), users, trained)

    def until(self, last: date) -> Reading:
        """Of the PRECISION_DAYS up to `last`; nothing where that day is not mature."""
        end = last.toordinal() - _EPOCH
        chosen = (self.rows.day > end - PRECISION_DAYS) & (self.rows.day <= end)
        frauds = int(self.rows.label[chosen].sum())
        if not self.mature[self.rows.day == end].all() or frauds < MIN_FRAUDS:
            return Reading(None, None, frauds)
        score, label = self.score[chosen], self.rows.label[chosen]
        value = evaluation.average_precision(score, label)
        if self.trained is None:
            return Reading(value, None, frauds)
        high = bootstrap.interval(value, bootstrap.average_precisions(score, label, self.users.of(chosen))).high
        return Reading(value, max(self.trained - high, 0.0) / (self.trained * (1 - PRECISION_SHARE)), frauds)


def alarms(days: list[Day]) -> Iterator[Alarm]:
    """Every day and statistic that calls for attention: together with the day before, or extreme by itself."""
    before: dict[str, tuple[date, float]] = {}  # statistic -> last day it was judged, and its strength
    for day in days:
        for name, reading in day.readings.items():
            if reading.strength is None or reading.value is None:
                continue
            last, strength = before.get(name, (date.min, 0.0))
            before[name] = (day.day, reading.strength)
            both = math.sqrt(strength * reading.strength) if day.day - last == timedelta(days=1) else 0.0
            if both > 1:
                yield Alarm(day.day, name, reading.value, both, 2)
            elif reading.strength > EXTREME:
                yield Alarm(day.day, name, reading.value, reading.strength, 1)


_EPOCH = date(1970, 1, 1).toordinal()


def _date(day: int) -> date:
    return date.fromordinal(_EPOCH + int(day))
