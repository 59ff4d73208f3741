"""Snapshots of merchants of a data set: made from its history, looked up by replay, kept as merchants.parquet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.errors import DataInvalid
from feature_repo.merchants import NOT_REPORTED, SCHEMA, Arrivals, snapshot_of
from feature_repo.snapshot import COLUMNS as STATS
from feature_repo.snapshot import Hashes, MerchantLookup, Snapshot, Stats, lookup_in
from feature_repo.state import DAY
from pipelines.parquet_file import atomically

READ_ROWS = 262_144
HISTORY = ("merchant", "arrival_time", "is_fraud", "label_time")
_US = pa.timestamp("us", tz="UTC")


def arrivals_of(folder: Path, name: str) -> Arrivals:
    """Payments and reported frauds of a history. Raises DataInvalid where it lacks a column."""
    arrivals = Arrivals()
    with pq.ParquetFile(folder / "history.parquet") as file:
        missing = set(HISTORY) - set(file.schema_arrow.names)
        if missing:
            raise DataInvalid(name, [f"history.parquet has no column {column}" for column in sorted(missing)])
        for batch in file.iter_batches(READ_ROWS, columns=list(HISTORY)):
            fraud = pc.fill_null(batch.column("is_fraud"), False)
            reported = pc.if_else(fraud, _micros(batch.column("label_time")), pa.scalar(None, pa.int64()))
            arrivals.add(
                batch.column("merchant").cast(pa.string()),
                _micros(batch.column("arrival_time")).to_numpy(),
                reported.fill_null(NOT_REPORTED).to_numpy(),
            )
    return arrivals


class Merchants:
    """The snapshot of each day of a history, one after the other, written to merchants.parquet as they are made."""

    def __init__(self, arrivals: Arrivals, writer: pq.ParquetWriter) -> None:
        self._arrivals = arrivals
        self._writer = writer
        self._first: int | None = None  # nothing had arrived before this day: it has no snapshot
        self._day = np.iinfo(np.int64).min
        self.newest: Snapshot | None = None
        self.count = 0

    @classmethod
    @contextmanager
    def of(cls, folder: Path, name: str) -> Iterator["Merchants"]:
        """Of a data set's folder; merchants.parquet appears when the block ends well."""
        arrivals = arrivals_of(folder, name)
        with atomically(folder / "merchants.parquet", SCHEMA) as writer:
            yield cls(arrivals, writer)

    def as_of(self, arrived: npt.NDArray[np.int64]) -> MerchantLookup:
        """How to look up the merchants of payments that arrived then, ascending and not before any asked earlier."""

        def look_up(merchants: Hashes) -> Stats:
            values = np.empty((len(merchants), len(STATS)), np.float32)
            days, starts = np.unique(arrived // DAY, return_index=True)
            for day, start, stop in zip(days.tolist(), starts, [*starts[1:], len(arrived)], strict=True):
                self._advance(day)
                values[start:stop] = lookup_in(self.newest)(merchants[start:stop])
            return values

        return look_up

    def _advance(self, day: int) -> None:
        if self._first is None:
            self._first = day
        if day <= max(self._first, self._day):
            return
        rows = self._arrivals.snapshot(day)
        self._writer.write_batch(rows)
        self._day, self.newest = day, snapshot_of(rows, day)
        self.count += 1


def snapshots_in(path: Path) -> Iterator[Snapshot]:
    """The snapshots of a merchants.parquet, newest first."""
    days = pc.unique(pq.read_table(path, columns=["event_timestamp"])["event_timestamp"])
    for day in sorted(days.to_pylist(), reverse=True):
        rows = pq.read_table(path, filters=[("event_timestamp", "=", day)]).combine_chunks().to_batches()[0]
        yield snapshot_of(rows, int(day.timestamp()) * 1_000_000 // DAY)


def _micros(times: pa.Array) -> pa.Array:
    return times.cast(_US).cast(pa.int64())
