"""A history through the kernel: what the stream would have computed, for training and as a first live state.

Payments are folded in the order they arrived (`arrival_time`), by the same `fold` the Spark job calls, from
empty states, each with the snapshot of merchants of the day it arrived: what the stream has then.
Payments the stream gives no features are left out and counted: repeats, conflicting ids, and those in another
currency than the configured one, whose amounts are never summed with the rest.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo import activity, kernel, state
from feature_repo.activity import AGGREGATES, Kind
from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.features import NAMES
from feature_repo.hashing import events_of
from feature_repo.settings import Settings
from feature_repo.slots import Slots
from feature_repo.state import STATE_BYTES, States
from feature_repo.transaction import SCHEMA
from pipelines import online as live
from pipelines.merchants import Merchants
from pipelines.parquet_file import atomically

EXPORT = "export.json"  # says that a data set's vectors are those the stream logged
BATCH_ROWS = 65_536  # rows held at once; also the row group of features.parquet
SNAPSHOT_ROWS = 8_192  # 16 MB of records per row group

_US = pa.timestamp("us", tz="UTC")
FEATURES_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", _US, nullable=False),
        pa.field("created", _US, nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in NAMES),
    ]
)
_KINDS = {Kind.INTEGER: pa.int64(), Kind.NUMBER: pa.float64(), Kind.TIME: _US}
STATES_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", _US, nullable=False),
        pa.field("created", _US, nullable=False),
        pa.field("state", pa.binary(), nullable=False),
        *(pa.field(aggregate.name, _KINDS[aggregate.kind]) for aggregate in AGGREGATES),
    ]
)

Progress = Callable[[int, int], None]  # payments done, payments in all


@dataclass
class Replayed:
    """What a replay did. `payments` were read and `rows` vectors written; `seconds` is the whole of it."""

    data: str
    payments: int = 0
    rows: int = 0
    users: int = 0
    late: int = 0
    duplicates: int = 0
    conflicts: int = 0
    other_currency: int = 0
    snapshots: int = 0
    states_online: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Users:
    """Every user met so far: their slot, id and state record. Grows; a record never moves to another slot."""

    slots: Slots = field(default_factory=Slots)
    ids: list[pa.Array] = field(default_factory=list)
    states: States = field(default_factory=lambda: state.empty(np.empty(0, np.uint64)))

    def place(self, ids: pa.Array, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Slot of each payment's user, with a fresh record for those met for the first time."""
        before = len(self.slots)
        slots, first = self.slots.place(hashes)
        if len(first):
            self.ids.append(ids.take(pa.array(first)))
            if len(self.slots) > len(self.states):
                grown = np.zeros(max(1_024, 2 * len(self.slots)), state.STATE_DTYPE)
                grown[:before] = self.states[:before]
                self.states = grown
            self.states[before : len(self.slots)] = state.empty(hashes[first])
        return slots

    def all(self) -> tuple[pa.Array, States]:
        """Ids and records by slot."""
        return pa.chunked_array(self.ids, pa.string()).combine_chunks(), self.states[: len(self.slots)]


def replay(
    settings: Settings, name: str, *, online: bool = False, force: bool = False, progress: Progress | None = None
) -> Replayed:
    """Write features, states and merchants.parquet beside a data set's history; `online` also fills Redis.

    With `online` the states and the newest snapshot of merchants go where the stream looks for them, its
    offsets untouched; that is refused (StatesInUse) once the stream has decided anything, unless `force`.
    Raises BadConfiguration without a history and for an export of live decisions, DataInvalid where it is not in order
    of arrival.
    """
    started = time.perf_counter()
    folder = settings.home / "data" / name
    if not (folder / "history.parquet").is_file():
        raise BadConfiguration(f"no history in {folder}", remedy="vigil simulate or vigil import")
    if (folder / EXPORT).is_file():
        raise BadConfiguration(f"the vectors of {name} are those the stream logged, from states a replay does not know")
    if online and not force:
        live.refuse_if_streaming(settings)
    done, users = Replayed(name), Users()
    with Merchants.of(folder, name) as merchants:
        arrived = _fold_history(settings, folder, done, users, merchants, progress)
    ids, states = users.all()
    state.seal(states)
    _write_states(folder / "states.parquet", ids, states, arrived)
    done.users, done.snapshots = len(ids), merchants.count
    if online:
        done.states_online = live.write_states(settings, ids, states)
        live.note_seed(settings, name)
        if merchants.newest is not None:
            live.publish_merchants(settings, name, merchants.newest, merchants.rows)
    done.seconds = time.perf_counter() - started
    return done


def _fold_history(
    settings: Settings, folder: Path, done: Replayed, users: Users, merchants: Merchants, progress: Progress | None
) -> int:
    """Fold every payment and write its vector; returns the last arrival, microseconds."""
    arrived = np.iinfo(np.int64).min
    with atomically(folder / "features.parquet", FEATURES_SCHEMA) as writer:
        for payments, arrivals, total in batches(folder, done.data):
            if arrivals[0] < arrived or (np.diff(arrivals) < 0).any():
                rows = f"between rows {done.payments} and {done.payments + payments.num_rows}"
                raise DataInvalid(done.data, [f"history.parquet is not sorted by arrival_time {rows}"])
            arrived = int(arrivals[-1])
            done.payments += payments.num_rows
            payments, arrivals = _ours(payments, arrivals, settings.currency, done)
            events = events_of(payments, merchants.as_of(arrivals))
            slots = users.place(payments.column("user_id"), events.user)
            outside = np.full(len(slots), -1, np.int64)
            features, flags = kernel.fold(users.states, slots, events, -1, outside)
            kept = _count(flags, done)
            writer.write_batch(_vectors(payments, arrivals, features, kept))
            if progress:
                progress(done.payments, total)
    return arrived


def batches(folder: Path, name: str) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.int64], int]]:
    """Payments of a history as SCHEMA, their arrival times in microseconds, and how many there are in all."""
    with pq.ParquetFile(folder / "history.parquet") as file:
        missing = {*SCHEMA.names, "arrival_time"} - set(file.schema_arrow.names)
        if missing:
            raise DataInvalid(name, [f"history.parquet has no column {column}" for column in sorted(missing)])
        for batch in file.iter_batches(BATCH_ROWS, columns=[*SCHEMA.names, "arrival_time"]):
            payments = pa.RecordBatch.from_arrays(
                [batch.column(field.name).cast(field.type) for field in SCHEMA], schema=SCHEMA
            )
            arrivals = batch.column("arrival_time").cast(_US).cast(pa.int64()).to_numpy()
            yield payments, arrivals, file.metadata.num_rows


def _ours(
    payments: pa.RecordBatch, arrivals: npt.NDArray[np.int64], currency: str, done: Replayed
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
    """The payments in the configured currency; the others are counted."""
    ours = in_our_currency(payments, currency)
    other = payments.num_rows - pc.sum(ours).as_py()
    if not other:
        return payments, arrivals
    done.other_currency += other
    return payments.filter(ours), arrivals[ours.to_numpy(zero_copy_only=False)]


def in_our_currency(payments: pa.RecordBatch, currency: str) -> pa.BooleanArray:
    """Which are in the configured currency, which is also that of payments that name none: no other is folded."""
    return pc.fill_null(pc.equal(payments.column("currency"), currency), True)


def _count(flags: npt.NDArray[np.uint8], done: Replayed) -> npt.NDArray[np.bool_]:
    """Which payments have features; the others and the late ones are counted."""
    done.late += int((flags & kernel.LATE > 0).sum())
    done.duplicates += int((flags & kernel.DUPLICATE > 0).sum())
    done.conflicts += int((flags & kernel.CONFLICT > 0).sum())
    kept: npt.NDArray[np.bool_] = flags & (kernel.DUPLICATE | kernel.CONFLICT) == 0
    done.rows += int(kept.sum())
    return kept


def _vectors(
    payments: pa.RecordBatch,
    arrivals: npt.NDArray[np.int64],
    features: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_],
) -> pa.RecordBatch:
    columns = np.ascontiguousarray(features[kept].T)
    mask = pa.array(kept)
    return pa.RecordBatch.from_arrays(
        [
            payments.column("transaction_id").filter(mask),
            payments.column("user_id").filter(mask),
            payments.column("event_time").filter(mask),
            pa.array(arrivals[kept]).cast(_US),
            *(pa.array(column) for column in columns),
        ],
        schema=FEATURES_SCHEMA,
    )


def _write_states(path: Path, ids: pa.Array, states: States, arrived: int) -> None:
    """Each user's sealed record and readable aggregates as they are at the end of the history."""
    with atomically(path, STATES_SCHEMA) as writer:
        for start in range(0, len(ids), SNAPSHOT_ROWS):
            some = states[start : start + SNAPSHOT_ROWS]
            decoded = activity.decode(some)
            records = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(STATE_BYTES), len(some), [None, pa.py_buffer(some.tobytes())]
            )
            columns = [
                ids.slice(start, len(some)),
                pa.array(decoded["last_seen"]).cast(_US),
                pa.array(np.full(len(some), arrived)).cast(_US),
                records.cast(pa.binary()),
                *(pa.array(decoded[a.name], from_pandas=True).cast(_KINDS[a.kind]) for a in AGGREGATES),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=STATES_SCHEMA))
