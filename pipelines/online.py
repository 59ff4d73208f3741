"""What a replayed history leaves behind, into the live online store: user states and the newest snapshot."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import redis

from feature_repo.errors import StatesInUse, StoreUnavailable
from feature_repo.hashing import partitions_of
from feature_repo.keys import state_keys
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot
from feature_repo.snapshot_store import SnapshotStore
from feature_repo.state import STATE_BYTES, States
from streaming.ledger import Ledger

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


def write_states(settings: Settings, ids: pa.Array, states: States) -> int:
    """Write sealed records under the keys the stream reads, in bulk; returns how many."""
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


def publish_merchants(settings: Settings, name: str, snapshot: Snapshot) -> None:
    """Make it the current snapshot, and materialise the rows of its day in `merchants.parquet` through Feast.

    The road reads the snapshot as one string; Feast's rows, written first, are for who asks about a merchant. Those
    of merchants the snapshot does not know go. Raises DependencyDown.
    """
    from feature_repo import definitions  # with Feast, seconds to import
    from feature_repo.online_store import VigilOnlineStore

    effective = datetime.fromtimestamp(snapshot.effective_at / 1e6, UTC)
    feast = definitions.apply(settings, name)
    if len(snapshot.merchants):
        feast.materialize(effective - timedelta(seconds=1), effective, feature_views=[definitions.MERCHANT_VIEW])
    VigilOnlineStore().keep_only(feast.config, feast.get_feature_view(definitions.MERCHANT_VIEW), effective)
    with closing(SnapshotStore(settings.redis_url)) as store:
        store.publish(snapshot)


def has_snapshot(settings: Settings) -> bool:
    """Whether any was ever published. Raises DependencyDown."""
    with closing(SnapshotStore(settings.redis_url)) as store:
        return store.current() is not None
