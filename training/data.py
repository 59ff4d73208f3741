"""Training data: the vectors of a window of days, read through Feast, with what was known about them when.

Labels arrive late, with the history and by table `labels`, whose part `pipelines.labels.fetch` writes beside it. A
row's label is the newest that had arrived by `labels_as_of`; whatever arrived later does not exist for training,
calibration or the report.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo import verdicts
from feature_repo.errors import BadConfiguration
from feature_repo.features import NAMES, REASONS
from feature_repo.settings import Settings
from training.maturity import reported_share

log = logging.getLogger("vigil.training")

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Reports = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # delay and age of reported frauds, microseconds
NO_REPORTS: Reports = (np.empty(0), np.empty(0))
MICROSECONDS = 1_000_000
DAY_US = 86_400 * MICROSECONDS
PART_ROWS = 65_536

_US = pa.timestamp("us", tz="UTC")
_HISTORY = ["transaction_id", "user_id", "amount", "event_time", "arrival_time", "is_fraud", "label_time"]


@dataclass(frozen=True)
class TrainingSet:
    """Rows of a window, each transaction once, sorted by event time and id."""

    x: FloatArray  # [n, len(columns)], raw feature values
    columns: tuple[str, ...]
    transaction_id: pa.StringArray
    user_id: pa.StringArray
    event_time: npt.NDArray[np.int64]  # microseconds since 1970, UTC
    amount: npt.NDArray[np.float64]  # in the configured currency
    label: BoolArray  # known to be fraud as of labels_as_of
    label_known: BoolArray  # a label had arrived by labels_as_of
    too_young: BoolArray  # younger than the median label delay as of labels_as_of: silence says little yet
    reported_share: npt.NDArray[np.float64]  # of the frauds as old as this row, how many have been reported
    labels_as_of: datetime
    label_delay: timedelta  # median of the data set
    without_features: int  # payments of the window that the stream would not have scored either
    labels_received: datetime = verdicts.NONE_RECEIVED  # when the newest label of table `labels` looked at had come in
    payments_arrived: datetime | None = None  # when the newest payment had arrived
    label_sources: Mapping[str, int] = field(default_factory=dict)  # known labels of the window by who said so

    def __len__(self) -> int:
        return len(self.x)

    @property
    def day(self) -> npt.NDArray[np.int64]:
        """UTC days since 1970, by event time."""
        return self.event_time // DAY_US

    def mature(self) -> "TrainingSet":
        """The days that are old enough for half of their frauds to be known; maybe none."""
        return self.take(~np.isin(self.day, np.unique(self.day[self.too_young])))

    def take(self, rows: npt.NDArray[np.int64] | BoolArray) -> "TrainingSet":
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        names = ("x", "event_time", "amount", "label", "label_known", "too_young", "reported_share")
        ids = {name: getattr(self, name).take(pa.array(chosen)) for name in ("transaction_id", "user_id")}
        return replace(self, **{name: getattr(self, name)[chosen] for name in names}, **ids)

    def parts(self, rows: npt.NDArray[np.int64]) -> Iterator[FloatArray]:
        """The vectors of these rows, PART_ROWS at a time: a copy of all of them is gigabytes."""
        for start in range(0, len(rows), PART_ROWS):
            yield self.x[rows[start : start + PART_ROWS]]

    def without(self, names: Sequence[str]) -> "TrainingSet":
        """The same rows with fewer columns. Raises BadConfiguration for a column there is none of."""
        if not names:
            return self  # what follows is a copy
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise BadConfiguration(f"there is no feature {', '.join(unknown)} to leave out", remedy="vigil features")
        kept = [position for position, name in enumerate(self.columns) if name not in names]
        return replace(self, x=self.x[:, kept], columns=tuple(self.columns[position] for position in kept))

    def sha256(self) -> str:
        """Of everything training reads: ids, times, features and labels in their order."""
        digest = hashlib.sha256("\n".join(self.columns).encode())
        for ids in (self.transaction_id, self.user_id):
            for start in range(0, len(ids), PART_ROWS):
                digest.update(("\n" * (start > 0) + "\n".join(ids[start : start + PART_ROWS].to_pylist())).encode())
        for values in (self.x, self.event_time, self.amount, self.label, self.label_known):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Truth:
    """What the simulator knows: the mechanism and true first reason of each fraudulent payment."""

    table: pa.Table  # transaction_id, mechanism, reason, and reasons: all that are true

    def of(self, transaction_id: pa.StringArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Mechanism and reason of each payment, empty texts for genuine ones."""
        place = pc.index_in(transaction_id, value_set=self.table["transaction_id"].combine_chunks())
        at = place.fill_null(len(self.table)).to_numpy()
        mechanism, reason = (
            np.array([*self.table[name].to_pylist(), ""], dtype=object)[at] for name in ("mechanism", "reason")
        )
        return mechanism, reason

    def true_reasons(self, transaction_id: pa.StringArray) -> BoolArray:
        """[n, REASONS]: which codes are true of each payment; none of a genuine one."""
        place = pc.index_in(transaction_id, value_set=self.table["transaction_id"].combine_chunks())
        told = [*self.table["reasons"].to_pylist(), ()]
        matrix = np.array([[code in codes for code in REASONS] for codes in told], bool)
        rows: BoolArray = matrix[place.fill_null(len(self.table)).to_numpy()]
        return rows


def load_truth(settings: Settings, name: str) -> Truth | None:
    """The truth table of a simulated data set; None for data of one's own."""
    path = settings.home / "data" / name / "truth.parquet"
    if not path.is_file():
        return None
    return Truth(pq.read_table(path, columns=["transaction_id", "mechanism", "reason", "reasons"]))


def load_training_set(
    settings: Settings,
    name: str,
    first: date,
    last: date,
    labels_as_of: datetime | None = None,
    received_by: datetime | None = None,
    arrived_by: datetime | None = None,
) -> TrainingSet:
    """The days `first` to `last` (inclusive, UTC) of data set `name`, labels as they stood at `labels_as_of`.

    Labels are the history's own and those of the table that `pipelines.labels.fetch` wrote beside it; without
    that file, as without a stack, the history's alone. Default of labels_as_of: the end of the last day plus the
    data set's median label delay. `received_by` leaves out labels that came in later and `arrived_by` payments that
    arrived later, whatever time they speak of: what an earlier training saw. Raises BadConfiguration where there is no
    such data set, no such day, or no vector for it.
    """
    folder = settings.home / "data" / name
    history = _read_history(folder, name)
    if arrived_by is not None:
        history = history.filter(pc.less_equal(history["arrival_time"], pa.scalar(arrived_by, _US)))
    told = verdicts.of_table(folder, received_by)
    runs = verdicts.runs(pa.concat_tables([verdicts.of_history(history), told]))
    delay = median_label_delay(verdicts.as_of(history, runs, verdicts.NEVER - 1))
    cut = labels_as_of or midnight(last + timedelta(days=1)) + delay
    history = verdicts.as_of(history, runs, int(cut.timestamp() * MICROSECONDS))
    window = _in_window(history, name, first, last)
    sources = {pair["values"]: pair["counts"] for pair in window["label_source"].drop_null().value_counts().to_pylist()}
    log.info("%s, %s to %s: labels known at %s by source: %s", name, first, last, cut, sources or "none")
    rows = joined(window, _vectors(settings, name, window), cut, delay, _reports(history, cut))
    newest = pc.max(window["arrival_time"]).as_py()
    return replace(rows, labels_received=verdicts.received(told), payments_arrived=newest, label_sources=sources)


def median_label_delay(history: pa.Table) -> timedelta:
    """From a fraud's event to its label; zero where the history has no label."""
    frauds = history.filter(pc.and_kleene(history["is_fraud"], pc.is_valid(history["label_time"])))
    if not len(frauds):
        return timedelta(0)
    delays = _microseconds(frauds["label_time"]) - _microseconds(frauds["event_time"])
    return timedelta(microseconds=float(np.median(delays)))


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _read_history(folder: Path, name: str) -> pa.Table:
    path = folder / "history.parquet"
    if not path.is_file():
        raise BadConfiguration(f"there is no data set {name} ({path})", remedy="vigil simulate or vigil import")
    if not (folder / "features.parquet").is_file():
        raise BadConfiguration(f"data set {name} has no features yet", remedy=f"vigil replay --data {name}")
    return pq.read_table(path, columns=_HISTORY)


def load_window(settings: Settings, name: str, first: date, last: date) -> pa.Table:
    """The payments themselves, each transaction id once, with features or without: history columns and label."""
    return _in_window(_read_history(settings.home / "data" / name, name), name, first, last)


def _in_window(history: pa.Table, name: str, first: date, last: date) -> pa.Table:
    """Rows of the window; a repeated transaction id counts where it arrived first."""
    if last < first:
        raise BadConfiguration(f"the window ends ({last}) before it begins ({first})")
    start, end = midnight(first), midnight(last + timedelta(days=1))
    time = history["event_time"]
    inside = pc.and_(pc.greater_equal(time, pa.scalar(start, _US)), pc.less(time, pa.scalar(end, _US)))
    rows = history.filter(inside)
    if not len(rows):
        raise BadConfiguration(f"data set {name} has no payment from {first} to {last}")
    codes = rows["transaction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    return rows.take(pa.array(np.sort(np.unique(codes, return_index=True)[1])))


def _vectors(settings: Settings, name: str, window: pa.Table) -> pa.Table:
    """transaction_id and features of the window's payments, in no particular order, through Feast."""
    import pandas  # with Feast, seconds to import: only who reads training data pays
    import pytz  # type: ignore[import-untyped]  # Feast's; it has no types

    from feature_repo import definitions

    store = definitions.apply(settings, name)
    asked = pandas.DataFrame(
        {
            "transaction_id": window["transaction_id"].to_pandas(),
            # pytz's UTC: for any other Feast converts row by row, in Python.
            "event_timestamp": window["event_time"].to_pandas().dt.tz_convert(pytz.UTC),
        }
    )
    service = store.get_feature_service(definitions.SERVICE)
    return store.get_historical_features(asked, service).to_arrow().select(["transaction_id", *NAMES])


def _reports(history: pa.Table, cut: datetime) -> Reports:
    """Of every fraud of the history reported by `cut`."""
    frauds = history.filter(pc.and_kleene(history["is_fraud"], pc.is_valid(history["label_time"])))
    label, event = _microseconds(frauds["label_time"]), _microseconds(frauds["event_time"])
    cut_us = int(cut.timestamp() * MICROSECONDS)
    seen = (label <= cut_us) & (label >= event)
    return (label - event)[seen].astype(np.float64), (cut_us - event)[seen].astype(np.float64)


def joined(
    window: pa.Table, vectors: pa.Table, cut: datetime, delay: timedelta, reports: Reports = NO_REPORTS
) -> TrainingSet:
    """Feast keeps no row order: rows meet by transaction id."""
    place = pc.index_in(window["transaction_id"], value_set=vectors["transaction_id"].combine_chunks())
    at = place.fill_null(0).to_numpy()
    scored = pc.is_valid(place).to_numpy()
    for name in NAMES:
        scored &= np.isfinite(vectors[name].to_numpy())[at]
    order = np.flatnonzero(scored)
    ids = window["transaction_id"].combine_chunks()
    time = _microseconds(window["event_time"])
    order = order[np.lexsort((_ranks(ids)[order], time[order]))]
    if not len(order):
        raise BadConfiguration("the window's payments have no features", remedy="vigil replay")
    rows = window.take(pa.array(order))
    x = np.empty((len(order), len(NAMES)), np.float32)  # column by column: ten million rows are there once, not thrice
    for position, name in enumerate(NAMES):
        x[:, position] = vectors[name].to_numpy()[at[order]]
    cut_us = int(cut.timestamp() * MICROSECONDS)
    labelled = pc.is_valid(rows["label_time"]).to_numpy()
    arrived = np.where(labelled, _microseconds(rows["label_time"]), np.iinfo(np.int64).max) <= cut_us
    return TrainingSet(
        x=x,
        columns=NAMES,
        transaction_id=rows["transaction_id"].combine_chunks(),
        user_id=rows["user_id"].combine_chunks(),
        event_time=time[order],
        amount=rows["amount"].to_numpy(),
        label=arrived & rows["is_fraud"].fill_null(False).to_numpy(),
        label_known=arrived,
        reported_share=reported_share(*reports, (cut_us - time[order]).astype(np.float64)),
        too_young=time[order] > cut_us - int(delay.total_seconds() * MICROSECONDS),
        labels_as_of=cut,
        label_delay=delay,
        without_features=len(window) - len(order),
    )


def _ranks(ids: pa.StringArray) -> npt.NDArray[np.int64]:
    ranks = np.empty(len(ids), np.int64)
    ranks[pc.array_sort_indices(ids).to_numpy()] = np.arange(len(ids))
    return ranks


def _microseconds(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Time column as int64 since 1970; 0 where there is none."""
    return column.cast(_US).cast(pa.int64()).fill_null(0).to_numpy()
