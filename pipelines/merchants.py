"""Snapshots of merchants of a data set: made from what arrived, looked up by replay, kept as merchants.parquet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo import verdicts
from feature_repo.errors import DataInvalid
from feature_repo.merchants import SCHEMA, Arrivals, snapshot_of
from feature_repo.snapshot import COLUMNS as STATS
from feature_repo.snapshot import Hashes, MerchantLookup, Snapshot, Stats, lookup_in
from feature_repo.state import DAY
from feature_repo.verdicts import NEVER
from pipelines.parquet_file import atomically

READ_ROWS = 262_144
KEPT_DAYS = 90  # of snapshots for Feast's point-in-time joins, once a stream runs; a replay writes all of its history
PAYMENT = ("transaction_id", "merchant", "arrival_time")
LABEL = ("transaction_id", "is_fraud", "label_time")
_US = pa.timestamp("us", tz="UTC")
ARRIVED = pa.schema([("transaction_id", pa.string()), ("merchant", pa.string()), ("arrival_time", pa.int64())])


def arrivals_of(folder: Path, name: str, until: int = NEVER) -> Arrivals:
    """Payments of a history that arrived before `until` (microseconds since 1970 UTC), and the claims that they are
    fraud: the history's own and those of its labels.parquet.

    Raises DataInvalid where the history lacks a column.
    """
    arrivals = Arrivals()
    with pq.ParquetFile(folder / "history.parquet") as file:
        missing = {*PAYMENT, *LABEL} - set(file.schema_arrow.names)
        if missing:
            raise DataInvalid(name, [f"history.parquet has no column {column}" for column in sorted(missing)])
        own = [
            verdicts.of_history(pa.Table.from_batches([batch]))
            for batch in file.iter_batches(READ_ROWS, columns=list(LABEL))
        ]
        claims = verdicts.claims(verdicts.runs(pa.concat_tables([*own, verdicts.of_table(folder)])))
        claimed = claims["transaction_id"].combine_chunks()
        found = [ARRIVED.empty_table()]
        for batch in file.iter_batches(READ_ROWS, columns=list(PAYMENT)):
            arrived = _micros(batch.column("arrival_time"))
            payments = pa.table([*(batch.column(n).cast(pa.string()) for n in PAYMENT[:2]), arrived], schema=ARRIVED)
            payments = payments.filter(pc.less(arrived, until)).combine_chunks()
            days = payments["arrival_time"].to_numpy() // DAY
            arrivals.pay(payments["merchant"].combine_chunks(), days, np.ones(len(days), np.int64))
            found.append(payments.filter(pc.is_in(payments["transaction_id"], value_set=claimed)))
    report(arrivals, claims, pa.concat_tables(found))
    return arrivals


def keep(folder: Path, rows: pa.RecordBatch, day: int) -> None:
    """Put a day's rows into merchants.parquet, in the place of any it has of that day, and let go what is older than
    KEPT_DAYS: the file is written anew each day."""
    path = folder / "merchants.parquet"
    effective, oldest = (pa.scalar(number * DAY).cast(_US) for number in (day, day - KEPT_DAYS))
    with atomically(path, SCHEMA) as writer:
        if path.is_file():
            with pq.ParquetFile(path) as before:
                for batch in before.iter_batches(READ_ROWS):
                    at = batch.column("event_timestamp")
                    others = batch.filter(pc.and_(pc.not_equal(at, effective), pc.greater(at, oldest)))
                    writer.write_batch(others.cast(SCHEMA))
        writer.write_batch(rows)


def report(arrivals: Arrivals, claims: pa.Table, payments: pa.Table) -> None:
    """Add the claims about these payments (transaction_id, merchant, arrival_time in microseconds); of an id that
    was used twice, about the first one."""
    place = pc.index_in(claims["transaction_id"], value_set=payments["transaction_id"].combine_chunks())
    about = pc.is_valid(place)
    claims, place = claims.filter(about), place.filter(about)
    arrivals.report(
        payments["merchant"].take(place).combine_chunks(),
        payments["arrival_time"].take(place).to_numpy(),
        claims["since"].to_numpy(),
        claims["until"].to_numpy(),
    )


class Merchants:
    """The snapshot of each day of a history, one after the other, written to merchants.parquet as they are made."""

    def __init__(self, arrivals: Arrivals, writer: pq.ParquetWriter) -> None:
        self._arrivals = arrivals
        self._writer = writer
        self._first: int | None = None  # nothing had arrived before this day: it has no snapshot
        self._day = np.iinfo(np.int64).min
        self.newest: Snapshot | None = None
        self.rows = pa.RecordBatch.from_pylist([], schema=SCHEMA)  # of the newest
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
        self._day, self.rows, self.newest = day, rows, snapshot_of(rows, day)
        self.count += 1


def _micros(times: pa.Array) -> pa.Array:
    return times.cast(_US).cast(pa.int64())
