"""Labels of the table on real servers: in training sets, and in the snapshots the daily job makes."""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from feature_repo import definitions, verdicts
from feature_repo.errors import DependencyDown, StoreUnavailable
from feature_repo.hashing import hash_texts
from feature_repo.keys import CURRENT_SNAPSHOT
from feature_repo.labels import TOPIC as LABELS
from feature_repo.merchants import snapshot_of
from feature_repo.settings import Settings
from feature_repo.snapshot import COLUMNS, Snapshot
from feature_repo.snapshot_store import SnapshotStore
from pipelines import labels, merchants, online
from pipelines.live import reading
from pipelines.rebuild import rebuild_merchants
from tests.cases import data_sets
from tests.cases.tables import FIRST_DAY, training_set
from tests.services.test_lifecycle import eventually, rows
from training.data import load_training_set, midnight

DAY = date(2031, 3, 20)  # no payment of another test arrives around it
ANOTHER_DAY = date(2033, 3, 20)
US = pa.timestamp("us", tz="UTC")

DECIDED = """INSERT INTO decisions (id, kafka_topic, kafka_partition, kafka_offset, revision, transaction_id, user_id,
    amount, currency, event_time, merchant, location, payment_method, outcome, ruleset_version, late, ingested_at,
    processed_at) VALUES (0, %s, 0, 0, 1, %s, 'u', 1, 'USD', '2031-01-01Z', %s, 'l', 'p', %s, 'v0', false, %s, now())"""
LABEL = "INSERT INTO labels (transaction_id, is_fraud, label_time, source) VALUES (%s, %s, %s, 'scheme')"


@pytest.fixture
def live(stack: Settings) -> Iterator[Settings]:
    """A topic and a data set's name of the test's own; afterwards no snapshot is current and no day is counted."""
    topic = f"payments-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    (made,) = admin.create_topics([NewTopic(topic, 1)]).values()
    made.result(30)
    yield stack.model_copy(update={"topic": topic, "data": f"live-{topic}"})
    execute(stack, "DELETE FROM merchant_days")
    with closing(redis.Redis.from_url(stack.redis_url)) as client:
        client.delete(CURRENT_SNAPSHOT)


def execute(settings: Settings, statement: str, *values: object) -> None:
    with closing(psycopg2.connect(settings.postgres_dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def at(days_before: float, day: date = DAY) -> datetime:
    return midnight(day) - timedelta(days=days_before)


def paid(settings: Settings, merchant: str, *days_before: float, outcome: str = "scored", day: date = DAY) -> list[str]:
    """Decisions of payments that arrived then; returns their ids."""
    ids = [f"tx-{uuid.uuid4().hex}" for _ in days_before]
    for transaction_id, arrived in zip(ids, days_before, strict=True):
        execute(settings, DECIDED, settings.topic, transaction_id, merchant, outcome, at(arrived, day))
    return ids


def published(settings: Settings) -> Snapshot:
    with closing(SnapshotStore(settings.redis_url)) as store:
        found = store.newest()
    assert found is not None
    return found


def known(snapshot: Snapshot, merchant: str) -> dict[str, float]:
    (values,) = snapshot.look_up(hash_texts(pa.array([merchant]), "merchant")).tolist()
    return dict(zip(COLUMNS, values, strict=True))


def days_in(folder: Path) -> list[datetime]:
    days: list[datetime] = pq.read_table(folder / "merchants.parquet")["event_timestamp"].unique().to_pylist()
    return days


def in_feast(settings: Settings, merchant: str) -> float | None:
    names = [f"{definitions.MERCHANT_VIEW}:{COLUMNS[1]}"]
    store = definitions.store(settings, settings.data)
    value: float | None = store.get_online_features(names, [{"merchant": merchant}]).to_dict()[COLUMNS[1]][0]
    return value


def test_the_daily_job_publishes_what_had_arrived_and_the_same_for_the_same_day(live: Settings) -> None:
    risky, other = f"risky {live.topic}", f"other {live.topic}"
    claimed = paid(live, risky, *(9 + part / 10 for part in range(10)))
    paid(live, other, *(9 + part / 10 for part in range(30)), 0.001, -0.001)
    paid(live, other, 5, outcome="duplicate")
    for transaction_id in claimed[:6]:
        execute(live, LABEL, transaction_id, True, at(1))
    execute(live, LABEL, claimed[9], True, at(-0.5))  # learnt later that day
    rebuild_merchants(live, DAY)
    first = published(live)
    folder = live.home / "data" / live.data
    assert set(days_in(folder)) == {midnight(DAY)}
    assert known(first, other)["merchant_count_30d"] == 31
    assert known(first, other)["merchant_count_7d"] == 1
    assert known(first, risky)["merchant_excess_risk_30d"] > 0.05
    assert in_feast(live, other) == 31

    rebuild_merchants(live, DAY)
    assert published(live).to_bytes() == first.to_bytes()

    for transaction_id in claimed[:6]:
        execute(live, LABEL, transaction_id, False, at(-0.5))  # the claims are taken back
    rebuild_merchants(live, DAY + timedelta(days=1))
    second = published(live)
    assert known(second, risky)["merchant_excess_risk_30d"] < known(first, risky)["merchant_excess_risk_30d"]
    assert known(second, other)["merchant_count_30d"] == in_feast(live, other) == 32

    assert set(days_in(folder)) == {midnight(DAY), midnight(DAY + timedelta(days=1))}

    rebuild_merchants(live, DAY + timedelta(days=200))
    assert len(published(live).merchants) == 0
    assert in_feast(live, other) is None
    assert days_in(folder) == [], "older days are let go"

    (folder / "merchants.parquet").unlink()  # as a replay of the data set drops the days of the stream
    with reading(live) as connection, connection.cursor() as cursor:
        kept = online.snapshots_of(cursor, [first.id, second.id, "ms_unknown"])
    assert {name: one.to_bytes() for name, one in kept.items()} == {one.id: one.to_bytes() for one in (first, second)}


def test_the_daily_job_and_replay_make_the_same_snapshot(live: Settings) -> None:
    names = [f"{letter} {live.topic}" for letter in "abc"]
    history: list[tuple[str, str, datetime]] = []
    for number, name in enumerate(names):
        arrived = [2 + number + part / 7 for part in range(40)]
        ids = paid(live, name, *arrived, day=ANOTHER_DAY)
        history += [(i, name, at(t, ANOTHER_DAY)) for i, t in zip(ids, arrived, strict=True)]
    for number, (transaction_id, _, arrived) in enumerate(history[::3]):
        execute(live, LABEL, transaction_id, True, arrived + timedelta(days=number % 5))
        if number % 4 == 0:
            execute(live, LABEL, transaction_id, False, arrived + timedelta(days=number % 5, hours=7))
    rebuild_merchants(live, ANOTHER_DAY)

    replayed = live.model_copy(update={"data": f"replayed-{live.topic}"})
    folder = replayed.home / "data" / replayed.data
    folder.mkdir(parents=True)
    names, shops, times = map(list, zip(*history, strict=True))
    nothing = pa.nulls(len(names))
    table = {"transaction_id": names, "merchant": shops, "arrival_time": pa.array(times, US)}
    unlabelled = {"is_fraud": nothing.cast(pa.bool_()), "label_time": nothing.cast(US)}
    pq.write_table(pa.table({**table, **unlabelled}), folder / "history.parquet")
    assert labels.fetch(replayed, replayed.data) == 50
    number = (ANOTHER_DAY - date(1970, 1, 1)).days
    again = snapshot_of(merchants.arrivals_of(folder, replayed.data).snapshot(number), number)
    assert again.to_bytes() == published(live).to_bytes()


def test_the_daily_job_waits_for_the_stream(live: Settings) -> None:
    """A record that arrived and is not decided may be a payment of the day that ended."""
    producer = Producer({"bootstrap.servers": live.kafka_bootstrap})
    producer.produce(live.topic, b"{}")
    producer.flush(30)
    with pytest.raises(DependencyDown, match="offsets 0 to 1 arrived before"):
        rebuild_merchants(live, DAY)
    execute(live, "INSERT INTO ledger (kafka_topic, kafka_partition, committed_until) VALUES (%s, 0, 1)", live.topic)
    rebuild_merchants(live, DAY)


def test_a_label_of_the_topic_is_in_a_training_set_from_when_it_was_learnt(stack: Settings) -> None:
    name = data_sets.write(stack, training_set())
    last = FIRST_DAY + timedelta(days=5)
    everything = load_training_set(stack, name, FIRST_DAY, last)
    fraud, genuine = (
        everything.transaction_id[int(label.argmax())].as_py() for label in (everything.label, ~everything.label)
    )
    learnt = midnight(last) + timedelta(days=10)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    for transaction_id, verdict in ((fraud, False), (genuine, True)):
        said = {"transaction_id": transaction_id, "is_fraud": verdict, "label_time": learnt.isoformat(), "source": name}
        producer.produce(LABELS, json.dumps(said).encode())
    producer.flush(30)
    stop = threading.Event()
    consumer = threading.Thread(target=labels.consume, args=(stack, stop, uuid.uuid4().hex))
    consumer.start()
    eventually(lambda: rows(stack, "SELECT count(*) FROM labels WHERE source = %s", name) == [(2,)])
    stop.set()
    consumer.join(60)

    labels.fetch(stack, name)
    for when, labelled in ((learnt - timedelta(seconds=1), {fraud}), (learnt, {genuine})):
        found = load_training_set(stack, name, FIRST_DAY, last, when)
        frauds = set(found.transaction_id.filter(pa.array(found.label)).to_pylist())
        assert frauds & {fraud, genuine} == labelled
    assert found.label_sources[name] == 2
    assert found.sha256() != everything.sha256()
    as_then = load_training_set(stack, name, FIRST_DAY, last, learnt, everything.labels_received)
    assert as_then.sha256() == load_training_set(stack, name, FIRST_DAY, last, learnt, verdicts.NONE_RECEIVED).sha256()
    assert fraud in as_then.transaction_id.filter(pa.array(as_then.label)).to_pylist()


def test_without_postgresql_the_labels_are_not_taken_for_none(stack: Settings, tmp_path: Path) -> None:
    name = data_sets.write(stack, training_set())
    away = stack.model_copy(update={"postgres_dsn": "postgresql://vigil_writer@127.0.0.1:1/vigil"})
    with pytest.raises(StoreUnavailable):
        labels.fetch(away, name)
    assert not (stack.home / "data" / name / verdicts.FILE).exists()
