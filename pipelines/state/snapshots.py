"""Snapshots of all user states, taken while the stream runs: a folder each under `$VIGIL_HOME/state/snapshots`.

A snapshot need not stop the clock. Of every partition `folded_until` is read before its records are, and records only
move ahead: each holds all payments below that watermark, and says up to which offset it holds more. Whoever folds the
log on from the watermark finds each record where it was left, as a payment it holds already is a no-op to the kernel,
repeats and late ones included. So records read at different moments come to the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo import layouts
from feature_repo.errors import BadConfiguration, DependencyDown, SnapshotCorrupt, StateAhead, StateLost
from feature_repo.hashing import hash_texts
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from feature_repo.state import LAYOUT, States
from pipelines import log, requests
from pipelines.online import Seed
from streaming import placement
from streaming.ledger import Ledger
from streaming.states import StateStore

MANIFEST = "manifest.json"
PARTIAL = ".partial"
ALONE_LOCK = 0x56475354  # "VGST"
ROWS = 4_096  # records held per partition before they are written: 8 MB, a row group
SCHEMA = pa.schema([pa.field("user_id", pa.string(), nullable=False), pa.field("state", pa.binary(), nullable=False)])


@dataclass(frozen=True)
class Part:
    """The records of one partition.

    All payments below `folded_until` are in them, none from `reaches` on.
    """

    folded_until: int
    reaches: int
    records: int
    bytes: int  # of the file
    sha256: str


@dataclass(frozen=True)
class Lineage:
    """What states are made of: only those of one lineage can stand for each other."""

    topic: str
    topic_id: str  # Kafka's, another one when the topic is deleted and made again
    partitions: int
    partitioner: str
    seed: Seed | None  # the history that was folded before the topic

    @classmethod
    def of(cls, settings: Settings) -> "Lineage":
        """Of the live states. Raises DependencyDown."""
        with requests.connected(settings) as connection, connection, connection.cursor() as cursor:
            seed = Seed.newest(cursor, settings.topic)
        return cls(settings.topic, log.topic_id(settings), settings.partitions, settings.partitioner, seed)

    @classmethod
    def read(cls, told: dict[str, Any]) -> "Lineage":
        seed = told.pop("seed")
        return cls(seed=None if seed is None else Seed.read(seed), **told)


@dataclass(frozen=True)
class Snapshot:
    """A finished one, as its manifest tells."""

    name: str
    made_at: str
    lineage: Lineage
    layout: int
    side_inputs: str | None  # id of the merchants' snapshot of that moment
    parts: dict[int, Part]  # by Kafka partition

    @property
    def records(self) -> int:
        return sum(part.records for part in self.parts.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> "Snapshot":
        """Raises SnapshotCorrupt."""
        try:
            told = json.loads((folder / MANIFEST).read_text())
            parts = {int(number): Part(**part) for number, part in told.pop("parts").items()}
            return cls(parts=parts, lineage=Lineage.read(told.pop("lineage")), **told)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotCorrupt(folder.name, f"{MANIFEST} cannot be read: {error}") from error


def folder_of(settings: Settings) -> Path:
    return settings.home / "state" / "snapshots"


def names(settings: Settings) -> list[str]:
    """Of the finished ones, newest first; a name is the moment it was begun, UTC."""
    return sorted((path.name for path in folder_of(settings).glob("*Z") if path.is_dir()), reverse=True)


def take(settings: Settings) -> Snapshot:
    """Write all states there are as a new snapshot, and let the oldest go beyond VIGIL_STATE_SNAPSHOTS.

    Raises BadConfiguration where no stream ever folded anything, StateLost and StateAhead where a rebuild is due,
    StateCorrupt for a bad record, PlacementDiffers, GrowthUnfinished, DependencyDown.
    """
    with closing(Ledger(settings.postgres_dsn, settings.topic)) as ledger:
        placement.require(settings, ledger)
    with closing(StateStore(settings.redis_url)) as store, alone(settings):
        for left in folder_of(settings).glob(f"*{PARTIAL}"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        watermarks, lineage = _watermarks(settings, store), Lineage.of(settings)
        moment = datetime.now(UTC)
        folder = folder_of(settings) / f"{moment:%Y%m%dT%H%M%S.%fZ}"
        partial = folder.with_name(folder.name + PARTIAL)
        partial.mkdir(parents=True)
        try:
            parts = _write(partial, store, watermarks)
            after = _watermarks(settings, store)  # Redis may have been emptied, or restored, while it was read
            if any(after[partition] < until for partition, until in watermarks.items()):
                raise DependencyDown("Redis", settings.redis_url.split("@")[-1], "it was restored while it was read")
            snapshot = Snapshot(
                name=folder.name,
                made_at=moment.isoformat(timespec="seconds"),
                lineage=lineage,
                layout=LAYOUT,
                side_inputs=_side_inputs(settings),
                parts=parts,
            )
            (partial / MANIFEST).write_text(json.dumps(snapshot.as_json(), indent=2) + "\n")
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    for name in names(settings)[settings.state_snapshots :]:
        shutil.rmtree(folder_of(settings) / name, ignore_errors=True)
    return snapshot


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Wait until nobody else takes a snapshot or rebuilds, and keep others waiting: records that a rebuild deletes and
    writes again could be missed by who reads them all. Raises StoreUnavailable."""
    with requests.connected(settings) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (ALONE_LOCK,))  # let go with the connection
        yield


def verify(settings: Settings, snapshot: Snapshot, partition: int) -> None:
    """Whether the records of a partition are there as they were written. Raises SnapshotCorrupt where not."""
    path = _path(folder_of(settings) / snapshot.name, partition)
    if not path.is_file():
        raise SnapshotCorrupt(snapshot.name, f"{path.name} is gone")
    if _sha256(path) != snapshot.parts[partition].sha256:
        raise SnapshotCorrupt(snapshot.name, f"{path.name} is not what was written")


def load(settings: Settings, snapshot: Snapshot, partition: int) -> Iterator[tuple[pa.Array, States]]:
    """Users of one partition and their records, carried over to today's layout, in pieces.

    Raises StateCorrupt for a bad record, StateLayoutUnknown for one that cannot be carried over.
    """
    with pq.ParquetFile(_path(folder_of(settings) / snapshot.name, partition)) as file:
        for batch in file.iter_batches(ROWS):
            users = batch.column("user_id")
            yield users, layouts.read(batch.column("state").to_pylist(), hash_texts(users, "user_id"))


def unfit(snapshot: Snapshot, partition: int, now: Lineage, committed: int, oldest: int) -> str | None:
    """Why a partition of the live states cannot be rebuilt from this snapshot up to `committed`; None where it can be.

    `oldest` is the first offset Kafka still has.
    """
    was, part = snapshot.lineage, snapshot.parts.get(partition)
    if (was.topic, was.topic_id) != (now.topic, now.topic_id):
        return "it is of another topic, or of one that was deleted and made again"
    if (was.partitions, was.partitioner) != (now.partitions, now.partitioner) or part is None:
        return "users lay in other partitions then"
    if snapshot.layout != LAYOUT and snapshot.layout not in layouts.FORMER:
        return f"records of layout {snapshot.layout} cannot be carried over to {LAYOUT}"
    if was.seed != now.seed:
        return "a history replaced the states since"
    if part.reaches > committed:
        return f"it holds payments up to offset {part.reaches}, the ledger only up to {committed}"
    if part.folded_until < min(oldest, committed):
        return f"it goes on from offset {part.folded_until}, the log begins at {oldest}"
    return None


def _watermarks(settings: Settings, store: StateStore) -> dict[int, int]:
    """`folded_until` of every partition, which the ledger is never behind while all is well."""
    folded = {partition: store.folded(partition) for partition in range(settings.partitions)}
    ledger = Ledger(settings.postgres_dsn, settings.topic)
    try:
        committed = ledger.positions()  # after `folded`, as it moves first
    finally:
        ledger.close()
    for partition, until in folded.items():
        decided = committed.get(partition, 0)
        if until is None and decided:
            raise StateLost(partition, decided)
        if until is not None and until > decided:
            raise StateAhead(partition, until, decided)
    if not any(committed.values()):
        raise BadConfiguration(f"nothing of topic {settings.topic} was decided yet: there is nothing to keep")
    return {partition: until or 0 for partition, until in folded.items()}


def _write(folder: Path, store: StateStore, watermarks: dict[int, int]) -> dict[int, Part]:
    with ExitStack() as files:
        writing = {number: _Writing(_path(folder, number), files) for number in watermarks}
        for partition, users, values in store.records():
            if partition in writing:  # else of a time when there were more
                writing[partition].add(partition, users, values)
        for one in writing.values():
            one.write()
    return {
        number: Part(
            folded_until=until,
            reaches=writing[number].reaches,
            records=writing[number].records,
            bytes=_path(folder, number).stat().st_size,
            sha256=_sha256(_path(folder, number)),
        )
        for number, until in watermarks.items()
    }


class _Writing:
    """The file of one partition while it is written."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self._file = files.enter_context(pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=False))
        self._users: list[str] = []
        self._states: list[bytes] = []
        self.records = 0
        self.reaches = 0

    def add(self, partition: int, users: list[str], values: list[bytes]) -> None:
        states = layouts.read(values, hash_texts(pa.array(users, pa.string()), "user_id"))
        theirs = np.where(states["partition"] == partition, states["offset"] + 1, 0)
        self.reaches = max(self.reaches, int(theirs.max()))
        self.records += len(users)
        self._users += users
        self._states += [record.tobytes() for record in states]
        if len(self._users) >= ROWS:
            self.write()

    def write(self) -> None:
        self._file.write_table(pa.table([pa.array(self._users, pa.string()), self._states], schema=SCHEMA))
        self._users, self._states = [], []


def _side_inputs(settings: Settings) -> str | None:
    with closing(SnapshotStore(settings.redis_url)) as store:
        return store.current()


def _path(folder: Path, partition: int) -> Path:
    return folder / f"partition-{partition}.parquet"


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
