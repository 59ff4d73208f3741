"""Candidate and reference on one window: the same payments, the same draws of users, the same alert budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from training import bootstrap, evaluation
from training.bootstrap import BoolArray, DoubleArray, FloatArray, Interval, Users
from training.data import TrainingSet

AMOUNT_PARTS = 4  # quartiles of the window's amounts
HISTORY_PARTS = (5, 50)  # payments before this one: new, some, many
MIN_SLICE_FRAUDS = 100  # MODELS.md §4
WORSE = -0.02  # AP; a difference wholly below it is a loss that matters


@dataclass(frozen=True)
class Slice:
    """A part of the frauds beside all ordinary payments of the same part; `gain` is of average precision."""

    name: str
    frauds: int
    gain: Interval

    @property
    def lost(self) -> bool:
        return self.frauds >= MIN_SLICE_FRAUDS and self.gain.high < WORSE

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "frauds": self.frauds, "gain": self.gain.as_json(), "lost": self.lost}


class Comparison:
    """Of a window's rows; `mechanism` holds texts, empty for genuine payments, or is None where unknown."""

    def __init__(self, rows: TrainingSet, budget: float, mechanism: npt.NDArray[Any] | None) -> None:
        self.rows = rows
        self.budget = budget
        self.mechanism = mechanism
        self.users = Users.drawn(np.asarray(rows.user_id.to_pylist()))
        self.days = rows.day

    def average_precision(self, score: FloatArray) -> tuple[Interval, DoubleArray]:
        """The number with its interval, and its draws."""
        draws = bootstrap.average_precisions(score, self.rows.label, self.users)
        return bootstrap.interval(evaluation.average_precision(score, self.rows.label), draws), draws

    def gain(self, score: FloatArray, other: FloatArray, part: BoolArray | None = None) -> Interval:
        """Average precision of `score` minus that of `other`, on the same draws, of all rows or a part."""
        chosen = np.ones(len(score), bool) if part is None else part
        fraud, users = self.rows.label[chosen], self.users.of(chosen)
        ours, theirs = (bootstrap.average_precisions(values[chosen], fraud, users) for values in (score, other))
        value = evaluation.average_precision(score[chosen], fraud) - evaluation.average_precision(other[chosen], fraud)
        return bootstrap.interval(value, ours - theirs)

    def numbers(self, score: FloatArray) -> dict[str, Any]:
        """Everything the report says of one model: metrics, intervals at the alert budget, curves."""
        rows, fraud = self.rows, self.rows.label
        alerts = evaluation.top(score, self.budget)
        intervals = {"average_precision": self.average_precision(score)[0].as_json()}
        for name, (part, whole) in evaluation.shares_at_budget(alerts, fraud, rows.amount).items():
            draws = bootstrap.ratios(part, whole, self.users)
            intervals[name] = bootstrap.interval(float(part.sum() / whole.sum()), draws).as_json()
        metrics = evaluation.evaluate(score, fraud, self.users.codes, self.days, rows.amount, self.budget)
        return {"metrics": metrics, "intervals": intervals, "curves": evaluation.curves(score, fraud)}

    def slices(self, score: FloatArray, other: FloatArray) -> list[Slice]:
        """Every slice that holds a fraud and an ordinary payment."""
        found = []
        for name, part in self._parts():
            frauds = int(self.rows.label[part].sum())
            if 0 < frauds < part.sum():
                found.append(Slice(name, frauds, self.gain(score, other, part)))
        return found

    def _parts(self) -> Iterator[tuple[str, BoolArray]]:
        fraud = self.rows.label
        if self.mechanism is not None:
            for name in np.unique(self.mechanism[fraud & (self.mechanism != "")]):
                yield f"mechanism {name}", ~fraud | (self.mechanism == name)
        if "history" in self.rows.columns:
            payments = np.expm1(self.rows.x[:, self.rows.columns.index("history")])
            counts = (-np.inf, *(count - 0.5 for count in HISTORY_PARTS), np.inf)
            names = (f"under {HISTORY_PARTS[0]}", f"{HISTORY_PARTS[0]} to {HISTORY_PARTS[1] - 1}", "more")
            for name, (low, high) in zip(names, pairwise(counts), strict=True):
                yield f"earlier payments of the user: {name}", (payments >= low) & (payments < high)
        bounds = np.quantile(self.rows.amount, np.linspace(0, 1, AMOUNT_PARTS + 1))
        for number, (low, high) in enumerate(pairwise(bounds), start=1):
            last = number == AMOUNT_PARTS
            part = (self.rows.amount >= low) & ((self.rows.amount < high) | last)
            yield f"amount quarter {number} ({low:.2f} to {high:.2f})", part
