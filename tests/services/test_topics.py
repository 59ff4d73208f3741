"""Making topics on a real broker: missing ones, changed ones, too small ones."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from feature_repo.errors import BadConfiguration, DependencyDown
from feature_repo.settings import Settings
from infra.kafka import provision
from streaming.watch import spans, waiting, watcher

FILE = """
topics:
  transactions: {{partitions: payments, config: {{message.timestamp.type: LogAppendTime, retention.ms: 1000000}}}}
  {follower}: {{partitions: same, config: {{retention.ms: 2000000}}}}
  {single}: {{partitions: 1, config: {{cleanup.policy: compact}}}}
"""


@pytest.fixture
def admin(stack: Settings) -> Any:
    return AdminClient({"bootstrap.servers": stack.kafka_bootstrap})


@pytest.fixture
def own(stack: Settings, admin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings and a topics.yaml with topics of the test's own; none exists yet."""
    unique = uuid.uuid4().hex[:8]
    file = tmp_path / "topics.yaml"
    file.write_text(FILE.format(follower=f"follower-{unique}", single=f"single-{unique}"))
    monkeypatch.setattr(provision, "TOPICS_FILE", file)
    settings = stack.model_copy(update={"topic": f"payments-{unique}", "partitions": 3})
    yield settings
    names = [topic.name for topic in provision.topics(settings)]
    for future in admin.delete_topics(names).values():
        try:
            future.result(10)
        except KafkaException as error:
            assert "UNKNOWN_TOPIC" in str(error)


def partitions(admin: Any) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=10).topics.items()}


def until(holds: Callable[[], bool]) -> None:
    """A broker shows a change a moment after it confirmed it."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def configuration(admin: Any, topic: str) -> dict[str, str]:
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in future.result(10).items()}


def test_the_topics_of_the_stack_are_as_the_file_says(stack: Settings, admin: Any) -> None:
    for topic in provision.topics(stack):
        assert partitions(admin)[topic.name] >= topic.partitions
        found = configuration(admin, topic.name)
        assert {name: found[name] for name in topic.config} == topic.config


def test_missing_topics_are_made_and_a_second_time_changes_nothing(own: Settings, admin: Any) -> None:
    changes = provision.apply(own)
    assert len(changes) == 3
    wanted = {topic.name: topic.partitions for topic in provision.topics(own)}
    assert wanted.items() <= partitions(admin).items()
    assert provision.apply(own) == []


def test_a_setting_someone_changed_is_set_back(own: Settings, admin: Any) -> None:
    provision.apply(own)
    change = ConfigEntry("retention.ms", "5", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, own.topic, incremental_configs=[change])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    until(lambda: configuration(admin, own.topic)["retention.ms"] == "5")
    assert provision.apply(own) == [f"{own.topic}: retention.ms set to 1000000"]
    until(lambda: configuration(admin, own.topic)["retention.ms"] == "1000000")


def test_a_payments_topic_with_too_few_partitions_is_refused_not_grown(own: Settings, admin: Any) -> None:
    provision.apply(own)
    with pytest.raises(BadConfiguration, match="3 partitions, the settings ask for 5") as caught:
        provision.apply(own.model_copy(update={"partitions": 5}))
    assert "VIGIL_PARTITIONS=3" in caught.value.remedy
    assert partitions(admin)[own.topic] == 3


def test_a_topic_with_more_partitions_than_asked_for_is_left_alone(own: Settings, admin: Any) -> None:
    provision.apply(own)
    assert provision.apply(own.model_copy(update={"partitions": 2})) == []
    assert partitions(admin)[own.topic] == 3


def test_topics_we_place_records_in_grow_with_the_payments_topic(own: Settings, admin: Any) -> None:
    provision.apply(own)
    for future in admin.create_partitions([NewPartitions(own.topic, 6)]).values():
        future.result(10)
    until(lambda: partitions(admin)[own.topic] == 6)
    (follower,) = [topic.name for topic in provision.topics(own) if topic.grows]
    assert provision.apply(own) == [f"{follower}: grown from 3 to 6 partitions"]
    assert partitions(admin)[follower] == 6


def test_a_broker_that_is_away_is_named(stack: Settings) -> None:
    with pytest.raises(DependencyDown, match=r"Kafka at 127\.0\.0\.1:9"):
        provision.apply(stack.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"}))


def test_what_transactions_leave_behind_and_hold_back_waits_for_nothing(own: Settings, admin: Any) -> None:
    provision.apply(own)
    client = {"bootstrap.servers": own.kafka_bootstrap}
    plain = Producer(client)
    transactional = Producer(client | {"transactional.id": f"test-{own.topic}"})
    transactional.init_transactions(30)

    def transact(partition: int, records: int) -> None:
        transactional.begin_transaction()
        for _ in range(records):
            transactional.produce(own.topic, b"{}", partition=partition)
        transactional.flush(30)

    with closing(watcher(own, "test-watch")) as consumer:

        def ends(partition: int, high: int) -> None:
            """Kafka writes the mark a moment after it confirmed the end."""
            until(lambda: spans(consumer, own.topic, own.kafka_bootstrap, 30.0)[partition].high == high)

        def waits(*decided: int) -> list[int]:
            found = waiting(consumer, own.topic, own.kafka_bootstrap, dict(enumerate(decided)), 30.0)
            return [found[partition] for partition in range(own.partitions)]

        for _ in range(3):
            plain.produce(own.topic, b"{}", partition=0)
        assert plain.flush(30) == 0
        assert waits() == [3, 0, 0] and waits(2) == [1, 0, 0] and waits(3) == [0, 0, 0]
        transact(0, 2)
        transactional.commit_transaction(30)
        ends(0, 6)
        assert waits(4)[0] > 0 and waits(5) == [0, 0, 0]  # 5 is its mark
        transact(1, 4)
        transactional.abort_transaction(30)
        ends(1, 5)
        assert waits(5, 0) == [0, 0, 0]
        plain.produce(own.topic, b"{}", partition=1)
        assert plain.flush(30) == 0
        assert waits(5, 0) == [0, 1, 0]  # what was taken back lies before it
        transact(2, 2)
        assert waits(5, 6) == [0, 0, 0]  # not to be read before it ends
        transactional.commit_transaction(30)
        ends(2, 3)
        assert waits(5, 6)[2] > 0 and waits(5, 6, 2) == [0, 0, 0]
        for _ in range(60):  # one batch larger than what a consumer of small records would ask for
            plain.produce(own.topic, os.urandom(12_000), partition=2)
        assert plain.flush(30) == 0
        assert waits(5, 6, 3) == [0, 0, 60]
