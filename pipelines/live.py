"""What the stream decided, as a data set: payments of `decisions` with the vectors that were logged for them.

The folder is one as import and replay leave it, so training, gate and drift read live payments as they read any.
Nothing is computed again: a vector is what the model was given, whatever the state or the snapshot was.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from feature_repo.errors import BadConfiguration, StoreUnavailable
from feature_repo.features import NAMES
from feature_repo.hashing import hash_texts
from feature_repo.settings import Settings
from feature_repo.slots import Slots
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import requests
from pipelines.history import data_folder
from pipelines.online import Seed
from pipelines.parquet_file import Rows, atomically, written
from pipelines.replay import EXPORT, FEATURES_SCHEMA
from pipelines.requests import Connection, Cursor
from training.data import midnight

LIVE = "live"  # the data set's usual name
BLOCK_BYTES = 1 << 24
COPY_ROWS = 65_536

_US = pa.timestamp("us", tz="UTC")
# Of the newest revision of each decision. The vector travels as hex: COPY's text has no shorter form of bytes.
_COLUMNS = {
    "transaction_id": pa.string(),
    "user_id": pa.string(),
    "amount": pa.float64(),
    "event_time": pa.int64(),
    "merchant": pa.string(),
    "location": pa.string(),
    "payment_method": pa.string(),
    "currency": pa.string(),
    "arrival_time": pa.int64(),
    "kafka_partition": pa.int64(),
    "kafka_offset": pa.int64(),
    "features": pa.string(),
}
_ROWS = """
    COPY (
        SELECT transaction_id, user_id, amount, (extract(epoch FROM event_time) * 1000000)::bigint, merchant, location,
            payment_method, currency, (extract(epoch FROM ingested_at) * 1000000)::bigint, kafka_partition,
            kafka_offset, encode(features, 'hex')
        FROM (
            SELECT DISTINCT ON (ingested_at, kafka_partition, kafka_offset) * FROM decisions
            WHERE kafka_topic = %(topic)s AND event_time >= %(start)s AND event_time < %(end)s
                AND ingested_at >= %(day)s AND ingested_at < %(next)s
            ORDER BY ingested_at, kafka_partition, kafka_offset, revision DESC
        ) AS newest
        WHERE outcome <> 'duplicate'
        ORDER BY ingested_at, kafka_partition, kafka_offset
    ) TO STDOUT (FORMAT csv)
"""
_ENDS = """
    SELECT min(event_time), max(event_time), min(ingested_at), max(ingested_at) FROM decisions
    WHERE kafka_topic = %s AND event_time >= %s AND event_time < %s
"""
_NAMES = """
    SELECT kafka_partition, first_offset, feature_names FROM (
        SELECT *, lag(feature_names) OVER (PARTITION BY kafka_partition ORDER BY first_offset) AS before
        FROM ledger_ranges WHERE kafka_topic = %s
    ) AS ranges WHERE before IS DISTINCT FROM feature_names
"""


@dataclass
class Exported:
    """What an export did; written as export.json. `payments` are in the history, `vectors` of them have features."""

    name: str
    first: str = ""  # event days of the decisions, inclusive
    last: str = ""
    history: str | None = None  # the data set that seeded the live states, where the export begins with it
    from_history: int = 0  # of `payments`
    payments: int = 0
    vectors: int = 0
    repeated_ids: int = 0  # left out: the id was used before, too long ago for the user's state to know
    without_vector: int = 0  # another currency: never folded
    of_other_features: int = 0  # logged when the catalogue did not have all of today's features
    exported_at: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    settings: Settings, name: str, first: date | None = None, last: date | None = None, *, with_history: bool = False
) -> Exported:
    """Decisions with event days `first` to `last` (inclusive, UTC; default: all) as data set `name`.

    `with_history` begins with the history whose replay seeded the live states, if it is still what it was: its vectors
    are what the stream would have logged. An earlier export of that name is replaced. Raises BadConfiguration for the
    name of an imported history and where nothing was decided in the window; StoreUnavailable.
    """
    folder = data_folder(settings, name)
    if folder.exists() and any(folder.iterdir()) and not is_export(folder):
        raise BadConfiguration(f"{name} is a data set of another kind", remedy="export under a name of its own")
    start, end = midnight(first or date.min), midnight(last + timedelta(days=1)) if last else None
    if end is not None and end <= start:
        raise BadConfiguration(f"the window ends ({last}) before it begins ({first})")
    with reading(settings) as connection, connection.cursor() as cursor:
        window = Window.of(cursor, settings.topic, start, end or datetime.max.replace(tzinfo=UTC))
        done = Exported(
            name, window.begins.isoformat(), window.ends.isoformat(),
            exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        partial = folder.with_name(f".{name}.{uuid4().hex}")
        partial.mkdir(parents=True)
        try:
            with (
                written(partial / "history.parquet", HISTORY_SCHEMA) as history,
                atomically(partial / "features.parquet", FEATURES_SCHEMA) as features,
            ):
                seen = Slots()  # transaction ids
                seed = Seed.newest(cursor, settings.topic) if with_history else None
                if seed is not None and seed.stands(settings):
                    done.history = seed.data
                    _copy(data_folder(settings, seed.data), window, seen, history, features, done)
                _write(window, cursor, seen, history, features, done)
            (partial / EXPORT).write_text(json.dumps(done.as_json(), indent=2) + "\n")
            _switch(folder, partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return done


def _switch(folder: Path, made: Path) -> None:
    """Let the name stand for what was `made`, in one step, and remove what it stood for with all that was made of it.

    The name is a link: a folder cannot take the place of one that is not empty, and whoever reads meanwhile would find
    none. A reader that has a file open keeps it.
    """
    link = made.with_name(made.name + ".link")
    link.symlink_to(made.name)
    before = None
    if folder.is_symlink():
        before = folder.resolve()
    elif folder.exists():  # empty, or of an older release
        before = folder.rename(made.with_name(made.name + ".before"))
    link.replace(folder)
    if before:
        shutil.rmtree(before, ignore_errors=True)


def is_export(folder: Path) -> bool:
    """Whether a data set's vectors are those the stream logged."""
    return (folder / EXPORT).is_file()


@contextmanager
def reading(settings: Settings) -> Iterator[Connection]:
    """A connection that sees PostgreSQL as it is at its first look, however long the reading takes."""
    try:
        connection = psycopg2.connect(
            settings.postgres_reader_dsn, connect_timeout=requests.CONNECT_TIMEOUT_S, options="-c timezone=UTC"
        )
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            yield connection
        finally:
            connection.close()
    except psycopg2.OperationalError as error:
        raise StoreUnavailable("PostgreSQL", settings.postgres_reader_dsn.rpartition("@")[2], str(error)) from error


@dataclass(frozen=True)
class Window:
    """Decisions of a span of event time: the days on which they arrived, and what their vectors hold."""

    topic: str
    start: datetime
    end: datetime
    begins: date  # first and last event day there is
    ends: date
    arrived: tuple[date, date]
    names: "Names"

    @classmethod
    def of(cls, cursor: Cursor, topic: str, start: datetime, end: datetime) -> "Window":
        """Raises BadConfiguration where nothing was decided in it."""
        cursor.execute(_ENDS, (topic, start, end))
        begins, ends, arrived, until = cursor.fetchone() or (None,) * 4
        if begins is None:
            raise BadConfiguration("the stream has decided no payment of these days", remedy="vigil status")
        return cls(
            topic, start, end, begins.date(), ends.date(), (arrived.date(), until.date()), Names.logged(cursor, topic)
        )

    def days(self, cursor: Cursor) -> Iterator[IO[bytes]]:
        """The decisions that arrived on each day, one after the other, as CSV of _COLUMNS."""
        day, until = self.arrived
        while day <= until:
            values = {
                "topic": self.topic, "start": self.start, "end": self.end,
                "day": midnight(day), "next": midnight(day + timedelta(days=1)),
            }  # fmt: skip
            with tempfile.TemporaryFile() as file:
                cursor.copy_expert(cursor.mogrify(_ROWS, values).decode(), file)
                if file.tell():
                    file.seek(0)
                    yield file
            day += timedelta(days=1)


@dataclass(frozen=True)
class Names:
    """Which features a logged vector holds, in order: they change where a new version of the job took over."""

    rows: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # decisions.id, less its revision, of each first one
    codes: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    names: tuple[tuple[str, ...], ...] = ()  # by code

    @classmethod
    def logged(cls, cursor: Cursor, topic: str) -> "Names":
        """Of every decision of a topic."""
        cursor.execute(_NAMES, (topic,))
        found = cursor.fetchall()
        known = tuple(dict.fromkeys(tuple(names) for _, _, names in found))
        codes = np.array([known.index(tuple(names)) for _, _, names in found], np.int64)
        rows = np.array([partition << 48 | first << 4 for partition, first, _ in found], np.int64)
        order = np.argsort(rows)
        return cls(rows[order], codes[order], known)

    def of(self, partition: int, offset: int) -> tuple[str, ...]:
        """What the vector of one decision holds."""
        return self.names[int(self.codes_of(np.array([partition]), np.array([offset]))[0])]

    def codes_of(self, partition: npt.NDArray[np.int64], offset: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Position in `names` of each decision's."""
        return self.codes[np.searchsorted(self.rows, partition << 48 | offset << 4 | 0xF, side="right") - 1]


def _copy(folder: Path, window: Window, seen: Slots, history: Rows, features: pq.ParquetWriter, done: Exported) -> None:
    """Payments and vectors of a replayed data set, as far as they lie in the window."""
    for path, time in ((folder / "history.parquet", "event_time"), (folder / "features.parquet", "event_timestamp")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(COPY_ROWS):
                at = batch.column(time)
                inside = pc.and_(pc.greater_equal(at, window.start), pc.less(at, window.end))
                rows = batch.filter(inside)
                if time == "event_time":
                    history.add(rows.select(HISTORY_SCHEMA.names).cast(HISTORY_SCHEMA))
                    seen.place(hash_texts(rows.column("transaction_id"), "transaction_id"))
                    done.from_history += rows.num_rows
                    done.payments += rows.num_rows
                else:
                    features.write_batch(rows.select(FEATURES_SCHEMA.names).cast(FEATURES_SCHEMA))
                    done.vectors += rows.num_rows


def _write(
    window: Window, cursor: Cursor, seen: Slots, history: Rows, features: pq.ParquetWriter, done: Exported
) -> None:
    convert = pyarrow.csv.ConvertOptions(
        column_types=_COLUMNS,
        null_values=[""],  # Arrow's own list holds NA and null, which a place or a person may be called
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    read = pyarrow.csv.ReadOptions(column_names=list(_COLUMNS), block_size=BLOCK_BYTES)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    for file in window.days(cursor):
        with pyarrow.csv.open_csv(file, read, parse, convert) as batches:
            for batch in batches:
                fresh = seen.place(hash_texts(batch.column("transaction_id"), "transaction_id"))[1]
                done.repeated_ids += batch.num_rows - len(fresh)
                batch = batch.take(pa.array(fresh))
                done.payments += batch.num_rows
                history.add(_payments(batch))
                _vectors(batch, window.names, features, done)


def _payments(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of HISTORY_SCHEMA; what `decisions` does not hold, and labels, are null."""
    columns = [
        batch.column(field.name).cast(field.type) if field.name in _COLUMNS else pa.nulls(batch.num_rows, field.type)
        for field in HISTORY_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=HISTORY_SCHEMA)


def _vectors(batch: pa.RecordBatch, names: Names, writer: pq.ParquetWriter, done: Exported) -> None:
    """Rows of FEATURES_SCHEMA for the payments whose logged vector holds every feature of today."""
    logged = batch.filter(batch.column("features").is_valid())
    done.without_vector += batch.num_rows - logged.num_rows
    codes = names.codes_of(logged.column("kafka_partition").to_numpy(), logged.column("kafka_offset").to_numpy())
    for code in np.unique(codes):
        rows = logged.filter(pa.array(codes == code))
        held = names.names[code]
        if not set(NAMES) <= set(held):
            done.of_other_features += rows.num_rows
            continue
        x = vectors(rows.column("features"), len(held))
        writer.write_batch(
            pa.RecordBatch.from_arrays(
                [
                    rows.column("transaction_id"),
                    rows.column("user_id"),
                    rows.column("event_time").cast(_US),
                    rows.column("arrival_time").cast(_US),
                    *(pa.array(np.ascontiguousarray(x[:, held.index(name)])) for name in NAMES),
                ],
                schema=FEATURES_SCHEMA,
            )
        )
        done.vectors += rows.num_rows


def vectors(hexadecimal: pa.StringArray, width: int) -> npt.NDArray[np.float32]:
    """[n, width] of logged vectors written as hex, none of them null."""
    text = "".join(hexadecimal.to_pylist())
    return np.frombuffer(bytes.fromhex(text), "<f4").reshape(len(hexadecimal), width)
