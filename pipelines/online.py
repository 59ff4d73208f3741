"""What a replayed history leaves behind, into the live online store: user states and the newest snapshot."""

import getpass
import hashlib
from collections.abc import Iterable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis

from feature_repo.errors import StatesInUse, StoreUnavailable
from feature_repo.hashing import partitions_of
from feature_repo.keys import state_keys
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot
from feature_repo.snapshot_store import SnapshotStore
from feature_repo.state import STATE_BYTES, States
from pipelines.history import data_folder
from pipelines.requests import Cursor, audit, connected
from streaming import placement
from streaming.ledger import Ledger

SEEDED = "seed_states"  # in the audit log
KEYS_PER_COMMAND = 1_000  # 2 MB: short enough that other clients of Redis do not notice


def refuse_if_streaming(settings: Settings) -> None:
    """Raises StatesInUse when the ledger shows decided payments: the live states hold them, a history does not."""
    ledger = Ledger(settings.postgres_dsn, settings.topic)
    try:
        decided = {partition: until for partition, until in ledger.positions().items() if until}
    finally:
        ledger.close()
    if decided:
        partition, until = max(decided.items(), key=lambda item: item[1])
        raise StatesInUse(settings.topic, partition, until)


@dataclass(frozen=True)
class Seed:
    """A history that was folded into the live states: which, what it was, and which offsets the log goes on from."""

    data: str
    history_sha256: str
    positions: dict[int, int]  # by partition; empty for a stream that had decided nothing

    @classmethod
    def newest(cls, cursor: Cursor, topic: str) -> "Seed | None":
        """The last one; None where the live states began empty."""
        cursor.execute(
            "SELECT after FROM audit WHERE action = %s AND subject = %s ORDER BY id DESC LIMIT 1", (SEEDED, topic)
        )
        row = cursor.fetchone()
        if row is None:
            return None
        return cls.read(row[0])

    @classmethod
    def read(cls, told: dict[str, Any]) -> "Seed":
        """From JSON, whose keys are texts."""
        positions = {int(partition): int(until) for partition, until in told["positions"].items()}
        return cls(told["data"], told["history_sha256"], positions)

    def stands(self, settings: Settings) -> bool:
        """Whether the data set's history is still the one that was folded."""
        path = data_folder(settings, self.data) / "history.parquet"
        return path.is_file() and _sha256(path) == self.history_sha256


def note_seed(settings: Settings, name: str, positions: dict[int, int] | None = None) -> None:
    """Keep in the audit log that this data set's states are the live ones now: nothing else could tell.

    `positions` are the offsets the log goes on from, by partition: where nothing else is said, those the ledger has
    come to. Raises StoreUnavailable.
    """
    with connected(settings) as connection, connection, connection.cursor() as cursor:
        if positions is None:
            cursor.execute(
                "SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s", (settings.topic,)
            )
            positions = dict(cursor.fetchall())
        digest = _sha256(data_folder(settings, name) / "history.parquet")
        after = {"data": name, "history_sha256": digest, "positions": positions}
        audit(cursor, getpass.getuser(), SEEDED, settings.topic, None, after)


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_states(settings: Settings, ids: pa.Array, states: States) -> int:
    """Write sealed records under the keys the stream reads, in bulk; returns how many.

    Raises PlacementDiffers, GrowthUnfinished, DependencyDown.
    """
    with closing(Ledger(settings.postgres_dsn, settings.topic)) as ledger:
        placement.require(settings, ledger)
    partitions = partitions_of(ids, settings.partitions, murmur2=settings.murmur2)
    names = ids.to_pylist()
    client = redis.Redis.from_url(settings.redis_url)
    try:
        for partition in range(settings.partitions):
            rows = (partitions == partition).nonzero()[0]
            for start in range(0, len(rows), KEYS_PER_COMMAND):
                some = rows[start : start + KEYS_PER_COMMAND]
                raw = memoryview(states[some].tobytes())
                values = [raw[i * STATE_BYTES : (i + 1) * STATE_BYTES] for i in range(len(some))]
                keys = state_keys((names[row] for row in some), partition)
                client.mset(dict(zip(keys, values, strict=True)))
    except redis.RedisError as error:
        raise StoreUnavailable("redis", settings.redis_url.rpartition("@")[2], str(error)) from error
    finally:
        client.close()
    return len(names)


def publish_merchants(settings: Settings, name: str, snapshot: Snapshot, rows: pa.RecordBatch) -> None:
    """Make it the current snapshot, and write the `rows` it was made of (merchants.SCHEMA) online through Feast.

    It is kept in PostgreSQL before a decision can name it. The road reads it as one string; Feast's rows, written
    before that, are for who asks about a merchant. They are given to Feast, whose materialisation would read all days
    of the data set for one. Those of merchants the snapshot does not know go. Raises DependencyDown.
    """
    from feature_repo import definitions  # with Feast, seconds to import
    from feature_repo.online_store import VigilOnlineStore

    effective = datetime.fromtimestamp(snapshot.effective_at / 1e6, UTC)
    keep(settings, snapshot)
    feast = definitions.apply(settings, name)
    if rows.num_rows:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it prints its progress, bar included
            feast.write_to_online_store(definitions.MERCHANT_VIEW, rows.to_pandas(), allow_registry_cache=False)
    VigilOnlineStore().keep_only(feast.config, feast.get_feature_view(definitions.MERCHANT_VIEW), effective)
    with closing(SnapshotStore(settings.redis_url)) as store:
        store.publish(snapshot)


def keep(settings: Settings, snapshot: Snapshot) -> None:
    """Keep it in PostgreSQL for good. Raises StoreUnavailable."""
    effective = datetime.fromtimestamp(snapshot.effective_at / 1e6, UTC)
    with connected(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO merchant_snapshots (id, effective_at, content) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (snapshot.id, effective, snapshot.to_bytes()),
        )


def snapshots_of(cursor: Cursor, ids: Iterable[str]) -> dict[str, Snapshot]:
    """Those of these snapshots that were ever published, by id."""
    cursor.execute("SELECT id, content FROM merchant_snapshots WHERE id = ANY(%s)", (sorted(ids),))
    return {name: Snapshot.from_bytes(bytes(content), name) for name, content in cursor}


def has_snapshot(settings: Settings) -> bool:
    """Whether any was ever published. Raises DependencyDown."""
    with closing(SnapshotStore(settings.redis_url)) as store:
        return store.current() is not None
