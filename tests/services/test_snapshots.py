"""Snapshots of merchants on real stores: published by a replay, the same for the road, for Feast and its view."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from feature_repo import definitions, kernel
from feature_repo.errors import SnapshotUnreadable
from feature_repo.features import NAMES
from feature_repo.hashing import events_of, hash_texts
from feature_repo.keys import CURRENT_SNAPSHOT, snapshot_key
from feature_repo.settings import Settings
from feature_repo.snapshot import COLUMNS
from feature_repo.snapshot_store import REPLACED_FOR_S, SnapshotStore
from feature_repo.state import DAY, HOUR, empty
from pipelines.replay import replay
from tests.services.test_feast import rows_of
from tests.unit.oracle import Payment
from tests.unit.streams import KNOWN, batch_of, long_stream, snapshot_of
from tests.unit.test_replay import FIRST_ARRIVAL, history_of


@pytest.fixture
def raw(stack: Settings) -> Iterator[redis.Redis]:
    """Redis; afterwards no snapshot is current, as other tests expect."""
    with closing(redis.Redis.from_url(stack.redis_url)) as client:
        yield client
        client.delete(CURRENT_SNAPSHOT)


@pytest.fixture
def store(stack: Settings, raw: redis.Redis) -> Iterator[SnapshotStore]:
    with closing(SnapshotStore(stack.redis_url)) as store:
        yield store


def test_a_replay_online_publishes_the_newest_snapshot_to_the_road_and_to_feast(
    stack: Settings, store: SnapshotStore
) -> None:
    mark = uuid4().hex[:8]
    payments = [replace(p, user=f"{p.user} {mark}") for p in long_stream(6, size=300)]
    reported = {row: FIRST_ARRIVAL + row * 2 * HOUR + 2 * DAY for row in range(0, 300, 4)}
    folder = stack.home / "data" / "shops"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(history_of(payments, every_us=2 * HOUR, reported=reported), folder / "history.parquet")
    replay(stack, "shops", online=True)
    snapshot = store.newest()
    assert snapshot is not None
    assert snapshot.effective_at == (FIRST_ARRIVAL + 299 * 2 * HOUR) // DAY * DAY
    assert len(snapshot.merchants) == len({p.merchant for p in payments})

    feast = definitions.apply(stack)
    merchants = sorted({p.merchant for p in payments})
    names = [f"{definitions.MERCHANT_VIEW}:{name}" for name in COLUMNS]
    asked = [{"merchant": merchant} for merchant in [*merchants, "nobody's"]]
    answer = feast.get_online_features(features=names, entity_rows=asked).to_dict()
    expected = snapshot.look_up(hash_texts(pa.array(merchants), "merchant"))
    for position, name in enumerate(COLUMNS):
        assert answer[name] == [*expected[:, position].tolist(), None], name

    stranger = Payment("t", uuid4().hex, 10**15, 12.5, merchants[0], "town", "card")
    service = feast.get_feature_service(definitions.ONLINE_SERVICE)
    view = feast.get_online_features(features=service, entity_rows=rows_of([stranger])).to_dict()
    events = events_of(batch_of([stranger]), snapshot.look_up)
    vector, _ = kernel.preview(empty(events.user), events)
    assert np.array([view[name][0] for name in NAMES], np.float32).tobytes() == vector[0].tobytes()
    assert view["merchant_volume_30d"][0] > 0


def test_a_published_snapshot_is_current_and_the_one_before_it_goes_later(
    store: SnapshotStore, raw: redis.Redis
) -> None:
    assert store.newest() is None
    first, second = snapshot_of(KNOWN, DAY), snapshot_of(KNOWN, 2 * DAY)
    store.publish(first)
    assert (found := store.newest()) is not None and found.id == first.id
    store.publish(second)
    assert store.current() == second.id
    assert (found := store.load(first.id)) is not None and found.to_bytes() == first.to_bytes()
    assert 0 < raw.ttl(snapshot_key(first.id)) <= REPLACED_FOR_S  # type: ignore[operator]  # not a coroutine here
    store.publish(second)
    assert raw.ttl(snapshot_key(second.id)) == -1


@pytest.mark.parametrize("spoil", [None, b"", b"spoilt"])
def test_a_snapshot_that_is_named_and_cannot_be_read_is_an_error(
    store: SnapshotStore, raw: redis.Redis, spoil: bytes | None
) -> None:
    snapshot = snapshot_of(KNOWN, 3 * DAY)
    store.publish(snapshot)
    if spoil is None:
        raw.delete(snapshot_key(snapshot.id))
    else:
        raw.set(snapshot_key(snapshot.id), spoil)
    with pytest.raises(SnapshotUnreadable, match=snapshot.id):
        store.newest()
    store.publish(snapshot)
    assert (found := store.newest()) is not None and found.id == snapshot.id
