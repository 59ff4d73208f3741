"""The producer against a real broker: what it counts is what Kafka holds, where Java would put it."""

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from feature_repo.errors import BadConfiguration, DependencyDown
from feature_repo.hashing import partitions_of
from feature_repo.settings import Settings
from pipelines.clock import SystemClock
from pipelines.defects import Defects
from pipelines.history import import_history
from pipelines.produce import produce
from pipelines.simulator import folder, world
from pipelines.sources import from_history
from tests.live import environment

PARTITIONS = 3
Record = tuple[int, bytes | None, bytes | None]  # partition, key, value


@pytest.fixture
def own(stack: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The stack's Kafka with a topic of the test's own, and a home with data set `sim`."""
    settings = stack.model_copy(
        update={"home": tmp_path, "topic": f"payments-{uuid.uuid4().hex[:8]}", "partitions": PARTITIONS}
    )
    folder.write(world.build(world.Options(users=300, seed=2)), 5, tmp_path / "made")
    import_history(settings, tmp_path / "made" / "history.parquet", "sim")
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    for future in admin.create_topics([NewTopic(settings.topic, num_partitions=PARTITIONS)]).values():
        future.result(20)
    yield settings
    for future in admin.delete_topics([settings.topic]).values():
        future.result(20)


def _records(settings: Settings, count: int) -> list[Record]:
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(settings.topic, number, 0) for number in range(settings.partitions)])
    found: list[Record] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        for message in consumer.consume(5_000, 0.5):
            assert message.error() is None
            found.append((message.partition() or 0, message.key(), message.value()))
    found += [(m.partition() or 0, m.key(), m.value()) for m in consumer.consume(100, 1.0)]  # nothing more comes
    consumer.close()
    return found


def test_kafka_holds_exactly_what_was_counted(own: Settings) -> None:
    rates = Defects(malformed=0.02, duplicate=0.03, unkeyed=0.02, late=0.02)
    done = produce(own, from_history(own, "sim", SystemClock()), defects=rates)
    records = _records(own, done.sent)
    assert len(records) == done.sent == done.delivered == sum(done.by_partition.values())
    assert done.sent == done.payments + sum(done.malformed.values()) + done.duplicates
    assert Counter(partition for partition, _, _ in records) == done.by_partition
    assert sum(key is None for _, key, _ in records) == done.unkeyed > 0
    assert len({value for _, _, value in records if value}) >= done.payments


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_every_user_is_in_the_partition_the_stream_expects(own: Settings, partitioner: str) -> None:
    settings = own.model_copy(update={"partitioner": partitioner})
    done = produce(settings, from_history(settings, "sim", SystemClock()), count=1_000)
    records = _records(settings, done.sent)
    users = pa.array([(key or b"").decode() for _, key, _ in records])
    expected = partitions_of(users, PARTITIONS, murmur2=settings.murmur2).tolist()
    assert [partition for partition, _, _ in records] == expected
    assert done.payments == 1_000


def test_payments_of_a_user_keep_their_order(own: Settings) -> None:
    done = produce(own, from_history(own, "sim", SystemClock()))
    values = [value for _, _, value in _records(own, done.sent)]
    sent = [value for batch in from_history(own, "sim", SystemClock()) for value in batch["transaction_id"].to_pylist()]
    place = {identity: number for number, identity in enumerate(sent)}
    newest: dict[str, int] = {}
    for value in values:
        user, identity = (
            str(value).partition(f'"{name}":"')[2].partition('"')[0] for name in ("user_id", "transaction_id")
        )
        assert newest.get(user, -1) < place[identity]
        newest[user] = place[identity]


def test_stopping_delivers_and_counts_what_was_sent(own: Settings) -> None:
    stop = threading.Event()
    done = produce(
        own,
        from_history(own, "sim", SystemClock()),
        rate=200.0,
        stop=stop,
        progress=lambda sent: stop.set() if sent > 100 else None,
    )
    assert done.stopped
    assert 100 < done.sent <= 400
    assert len(_records(own, done.sent)) == done.delivered == done.sent == done.payments


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_code_and_exact_counts(own: Settings, number: int, code: int) -> None:
    variables = environment(own) | {"VIGIL_TOPIC": own.topic, "VIGIL_KAFKA_BOOTSTRAP": own.kafka_bootstrap}
    command = [sys.executable, "-m", "pipelines.cli", "produce", "--data", "sim", "--rate", "100", "--json"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE)
    first = len(_records(own, 1))
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    done = json.loads(out)
    assert process.returncode == code
    assert done["stopped"]
    assert first <= len(_records(own, done["sent"])) == done["sent"] == done["delivered"]


def test_the_rate_is_kept(own: Settings) -> None:
    done = produce(own, from_history(own, "sim", SystemClock()), rate=300.0, count=600)
    assert done.sent == 600
    assert done.seconds >= 599 / 300.0 - 0.05  # never faster; slower only where the machine is


def test_no_broker_is_said_within_ten_seconds(own: Settings) -> None:
    began = time.monotonic()
    with pytest.raises(DependencyDown, match=r"kafka at 127\.0\.0\.1:1: no broker answers"):
        produce(own.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"}), from_history(own, "sim", SystemClock()))
    assert time.monotonic() - began < 10


def test_a_missing_topic_is_said(own: Settings) -> None:
    with pytest.raises(BadConfiguration, match="no topic not-there"):
        produce(own.model_copy(update={"topic": "not-there"}), from_history(own, "sim", SystemClock()))
