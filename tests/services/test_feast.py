"""Feast over the real stores: the job's own records read online, the kernel's vectors read offline."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore, FeatureView, Field, FileSource
from feast.repo_operations import get_repo_files
from feast.types import Float32

import feature_repo
from feature_repo import activity, definitions, kernel, online_store, state
from feature_repo.errors import RecordViewReadOnly, StateCorrupt, StatesInUse, StoreUnavailable
from feature_repo.features import NAMES
from feature_repo.hashing import partitions_of
from feature_repo.keys import state_key
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from feature_repo.transaction import SCHEMA
from pipelines.replay import replay
from tests.live import environment
from tests.unit.oracle import Payment
from tests.unit.streams import Log, batch_of, long_stream
from tests.unit.test_replay import history_of

REPO = Path(feature_repo.__file__).parent
STATE = "user_activity:state"
AGGREGATES = [f"user_activity:{aggregate.name}" for aggregate in activity.AGGREGATES]


@pytest.fixture(scope="module")
def feast(stack: Settings) -> FeatureStore:
    return definitions.apply(stack)


@pytest.fixture
def payments() -> list[Payment]:
    """Payments of users no other test knows."""
    mark = uuid4().hex[:8]
    return [Payment(**{**vars(p), "user": f"{p.user} {{{mark}}}"}) for p in long_stream(5, size=200)]


@pytest.fixture
def log(stack: Settings, payments: list[Payment]) -> Log:
    """The payments folded, all but the last, and the states saved as the job saves them."""
    log = Log(payments, no_snapshot)
    log.fold(0, len(payments) - 1)
    state.seal(log.states)
    users = {int(slot): payment.user for slot, payment in zip(log.slots, payments, strict=True)}
    names = pa.array([users[slot] for slot in range(len(log.states))])
    partitions = partitions_of(names, stack.partitions).tolist()
    with closing(redis.Redis.from_url(stack.redis_url)) as client:
        for partition in range(stack.partitions):
            keys = {
                state_key(names[slot].as_py(), partition): log.states[slot].tobytes()
                for slot, belongs in enumerate(partitions)
                if belongs == partition
            }
            if keys:
                client.mset(keys)
    return log


def users_of(log: Log) -> list[str]:
    """User ids by slot."""
    by_slot = {int(slot): payment.user for slot, payment in zip(log.slots, log.payments, strict=True)}
    return [by_slot[slot] for slot in range(len(by_slot))]


def rows_of(payments: list[Payment]) -> list[dict[str, Any]]:
    """Payments as a caller sends them to the on-demand view."""
    rows = batch_of(payments).to_pylist()
    return [row | {"event_time": p.time} for row, p in zip(rows, payments, strict=True)]


# ---- online -----------------------------------------------------------------------------------------------


def test_states_saved_in_bulk_are_read_back_byte_for_byte(feast: FeatureStore, log: Log) -> None:
    users = users_of(log)
    asked = [{"user_id": user} for user in [*reversed(users), "a user never seen", users[0]]]
    answer = feast.get_online_features(features=[STATE], entity_rows=asked).to_dict()
    records = [record.tobytes() for record in log.states]
    assert answer["state"] == [*reversed(records), None, records[0]]


def test_aggregates_are_decoded_from_the_same_record(feast: FeatureStore, log: Log) -> None:
    asked = [{"user_id": user} for user in users_of(log)]
    answer = feast.get_online_features(features=AGGREGATES, entity_rows=asked).to_dict()
    for aggregate, values in zip(activity.AGGREGATES, activity.decode(log.states).values(), strict=True):
        got = answer[aggregate.name]
        if aggregate.kind is activity.Kind.TIME:
            assert got == [datetime.fromtimestamp(value // 10**6, UTC) for value in values.tolist()]
        else:
            assert got == values.tolist(), aggregate.name


def test_the_on_demand_view_gives_the_vector_the_stream_gives_next(feast: FeatureStore, log: Log) -> None:
    service = feast.get_feature_service(definitions.ONLINE_SERVICE)
    last = log.payments[-1:]
    answer = feast.get_online_features(features=service, entity_rows=rows_of(last)).to_dict()
    expected, _ = log.fold(len(log.payments) - 1)
    got = np.array([answer[name][0] for name in NAMES], np.float32)
    assert got.tobytes() == expected[0].tobytes()


def test_the_on_demand_view_knows_new_users(feast: FeatureStore) -> None:
    service = feast.get_feature_service(definitions.ONLINE_SERVICE)
    stranger = Payment("t", uuid4().hex, 10**15, 12.5, "shop", "town", "card")
    answer = feast.get_online_features(features=service, entity_rows=rows_of([stranger, stranger])).to_dict()
    expected, _ = Log([stranger], no_snapshot).fold()
    assert [answer[name][1] for name in NAMES] == expected[0].tolist()


def test_a_spoilt_record_is_an_error_and_not_a_value(stack: Settings, feast: FeatureStore, log: Log) -> None:
    user = users_of(log)[0]
    partition = int(partitions_of(pa.array([user]), stack.partitions)[0])
    with closing(redis.Redis.from_url(stack.redis_url)) as client:
        client.setrange(state_key(user, partition), 700, b"spoilt")
    with pytest.raises(StateCorrupt, match="checksum"):
        feast.get_online_features(features=[STATE], entity_rows=[{"user_id": user}])


def test_a_store_that_is_down_is_named(stack: Settings, feast: FeatureStore) -> None:
    nowhere = stack.model_copy(update={"redis_url": "redis://:secret@127.0.0.1:1/0"})
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as caught:
        definitions.store(nowhere).get_online_features(features=[STATE], entity_rows=[{"user_id": "ada"}])
    assert "secret" not in str(caught.value)


def test_writing_states_through_feast_is_refused(stack: Settings, feast: FeatureStore, log: Log) -> None:
    replay(stack_with_history(stack, log.payments), "demo")
    row = {"user_id": users_of(log)[:1], "event_timestamp": [datetime.now(UTC)], "created": [datetime.now(UTC)]}
    columns = {a.name: [None] for a in activity.AGGREGATES} | {"state": [b"x"]}
    with pytest.raises(RecordViewReadOnly, match="user_activity"):
        feast.write_to_online_store("user_activity", pd.DataFrame(row | columns))
    with pytest.raises(RecordViewReadOnly, match="user_activity"):
        feast.materialize(
            datetime(1971, 1, 1, tzinfo=UTC), datetime(2150, 1, 1, tzinfo=UTC), feature_views=["user_activity"]
        )
    answer = feast.get_online_features(features=[STATE], entity_rows=[{"user_id": users_of(log)[0]}]).to_dict()
    assert answer["state"] == [log.states[0].tobytes()]


def test_other_views_are_feasts_own_hashes(stack: Settings, feast: FeatureStore, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    source = FileSource(name="plain", path=str(tmp_path / "plain.parquet"), timestamp_field="event_timestamp")
    plain = FeatureView(
        name="plain",
        entities=[feast.get_entity("user")],
        ttl=timedelta(0),
        schema=[Field(name="risk", dtype=Float32)],
        source=source,
    )
    feast.apply([source, plain])
    feast.write_to_online_store(
        "plain", pd.DataFrame({"user_id": ["p1", "p2"], "event_timestamp": [now, now], "risk": [0.25, 0.5]})
    )
    ask = {"features": ["plain:risk"], "entity_rows": [{"user_id": "p2"}, {"user_id": "p1"}, {"user_id": "p3"}]}
    assert feast.get_online_features(**ask).to_dict()["risk"] == [0.5, 0.25, None]
    definitions.apply(stack)
    assert "plain" not in [view.name for view in definitions.store(stack).list_all_feature_views()]


# ---- offline ----------------------------------------------------------------------------------------------


def stack_with_history(stack: Settings, payments: list[Payment], name: str = "demo") -> Settings:
    folder = stack.home / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(history_of(payments), folder / "history.parquet")
    return stack


def test_training_rows_are_exactly_the_kernels_vectors(stack: Settings, payments: list[Payment]) -> None:
    replay(stack_with_history(stack, payments, "small"), "small")
    feast = definitions.apply(stack, "small")
    features, flags = Log(payments, no_snapshot).fold()
    kept = np.flatnonzero(flags & (kernel.DUPLICATE | kernel.CONFLICT) == 0)
    asked = pd.DataFrame(
        {
            "transaction_id": [payments[row].id for row in kept],
            "event_timestamp": pd.to_datetime([payments[row].time for row in kept], unit="us", utc=True),
        }
    ).sample(frac=1, random_state=0)
    service = feast.get_feature_service(definitions.SERVICE)
    got = feast.get_historical_features(asked, service).to_df().set_index("transaction_id")
    ordered = got.loc[[payments[row].id for row in kept], list(NAMES)].to_numpy()
    assert ordered.dtype == np.float32
    assert ordered.tobytes() == features[kept].tobytes()


def test_a_history_also_shows_the_states_at_its_end(stack: Settings, payments: list[Payment]) -> None:
    replay(stack_with_history(stack, payments, "small"), "small")
    feast = definitions.apply(stack, "small")
    log = Log(payments)
    kernel.fold(log.states, log.slots, log.events, -1, np.full(len(payments), -1))
    state.seal(log.states)
    users = users_of(log)
    asked = pd.DataFrame({"user_id": users, "event_timestamp": [datetime(2150, 1, 1, tzinfo=UTC)] * len(users)})
    got = feast.get_historical_features(asked, [STATE, "user_activity:payments"]).to_df().set_index("user_id")
    assert got.loc[users, "state"].tolist() == [record.tobytes() for record in log.states]
    assert got.loc[users, "payments"].tolist() == log.states["count"].tolist()


def test_a_data_set_by_name_does_not_move_the_shared_definitions(stack: Settings) -> None:
    definitions.apply(stack)
    definitions.apply(stack, "small")
    shared = definitions.store(stack).get_data_source("features")
    own = definitions.store(stack, "small").get_data_source("features")
    assert shared.path.endswith("/data/demo/features.parquet")
    assert own.path.endswith("/data/small/features.parquet")


# ---- replay into the live states --------------------------------------------------------------------------


@pytest.fixture
def decided(stack: Settings) -> Iterator[None]:
    """A ledger in which the stream has decided something of this topic."""
    insert = "INSERT INTO ledger (kafka_topic, kafka_partition, committed_until) VALUES (%s, 77, 5)"
    execute(stack, insert, stack.topic)
    yield
    execute(stack, "DELETE FROM ledger WHERE kafka_topic = %s AND kafka_partition = 77", stack.topic)


def execute(stack: Settings, statement: str, *values: str) -> None:
    """As the owner of the tables: the writer may not delete from the ledger."""
    with closing(psycopg2.connect(stack.postgres_migrator_dsn)) as connection, connection:
        connection.cursor().execute(statement, values)


def test_replay_online_is_what_feast_and_the_stream_read(
    stack: Settings, feast: FeatureStore, payments: list[Payment]
) -> None:
    done = replay(stack_with_history(stack, payments, "live"), "live", online=True)
    log = Log(payments)
    kernel.fold(log.states, log.slots, log.events, -1, np.full(len(payments), -1))
    state.seal(log.states)
    asked = [{"user_id": user} for user in users_of(log)]
    answer = feast.get_online_features(features=[STATE], entity_rows=asked).to_dict()
    assert answer["state"] == [record.tobytes() for record in log.states]
    assert done.states_online == done.users == len(asked)


def test_replay_online_is_refused_once_the_stream_has_decided(
    stack: Settings, feast: FeatureStore, payments: list[Payment], decided: None
) -> None:
    stack_with_history(stack, payments, "live")
    with pytest.raises(StatesInUse, match="transactions-77 up to offset 5"):
        replay(stack, "live", online=True)
    asked = [{"user_id": payments[0].user}]
    assert feast.get_online_features(features=[STATE], entity_rows=asked).to_dict()["state"] == [None]
    assert replay(stack, "live", online=True, force=True).states_online > 0


# ---- Feast's command line ---------------------------------------------------------------------------------


def test_feast_apply_registers_what_apply_in_code_registers(stack: Settings, tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("feast"), "apply"]
    home = stack.model_copy(update={"home": tmp_path})
    run = subprocess.run(command, cwd=REPO, env=environment(home), capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    by_command, in_code = definitions.store(home), definitions.apply(stack)
    for kind in ("list_entities", "list_data_sources", "list_all_feature_views", "list_feature_services"):
        assert names(getattr(by_command, kind)()) == names(getattr(in_code, kind)()), kind
    assert by_command.get_stream_feature_view("user_activity").tags == {"record": "true"}


def names(things: list[Any]) -> list[str]:
    return sorted(thing.name for thing in things)


def test_feast_sees_one_file_of_this_folder() -> None:
    assert [path.name for path in get_repo_files(REPO)] == ["objects.py"]


def test_columns_come_from_the_catalogue(stack: Settings) -> None:
    feast = definitions.apply(stack)
    for service in (definitions.SERVICE, definitions.ONLINE_SERVICE):
        (projection,) = feast.get_feature_service(service).feature_view_projections
        assert tuple(field.name for field in projection.features) == NAMES
    request = feast.get_data_source("payment")
    assert {field.name for field in request.schema} == set(SCHEMA.names) - {"user_id", "merchant"}


def test_a_redis_that_hangs_is_given_up_in_time(
    feast: FeatureStore, stack: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_store, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait in its queue for ever
        hung = stack.model_copy(update={"redis_url": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"})
        store = definitions.store(hung)
        with pytest.raises(StoreUnavailable):
            store.get_online_features(features=[STATE], entity_rows=[{"user_id": "anybody"}])
