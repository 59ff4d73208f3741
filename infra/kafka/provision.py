"""Makes the topics of topics.yaml. Safe to run again; never shrinks or deletes a topic."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from feature_repo.errors import BadConfiguration, DependencyDown
from feature_repo.settings import Settings

TOPICS_FILE = Path(__file__).with_name("topics.yaml")
PAYMENTS = "transactions"  # its entry in topics.yaml; the topic's own name is a setting
TIMEOUT_S = 5.0
BROKER_DEFAULT = -1


@dataclass(frozen=True)
class Topic:
    """`partitions` is the least the topic needs; `grows` where adding some moves no key to another place."""

    name: str
    partitions: int
    config: dict[str, str]
    grows: bool


def topics(settings: Settings, payments_now: int = 0) -> list[Topic]:
    """The topics as they should be. `payments_now`: partitions the payments topic already has."""
    counts = {"payments": settings.partitions, "same": max(settings.partitions, payments_now)}
    wanted = []
    for name, entry in yaml.safe_load(TOPICS_FILE.read_text())["topics"].items():
        partitions = entry["partitions"]
        wanted.append(
            Topic(
                name=settings.topic if name == PAYMENTS else name,
                partitions=counts.get(partitions, partitions),
                config={key: str(value) for key, value in entry["config"].items()},
                grows=partitions == "same",
            )
        )
    return wanted


def apply(settings: Settings) -> list[str]:
    """Makes missing topics, sets their configuration, and says what it changed, one line each.

    A topic whose records are placed by us grows with the payments topic. The payments topic itself is
    never grown here: that would move users to other partitions, away from their state (see `grow`).
    Raises BadConfiguration where a topic has too few partitions, DependencyDown where Kafka is away.
    """
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "socket.timeout.ms": 10_000})
    try:
        return _apply(client, settings)
    except KafkaException as error:
        cause = error.args[0].str()
        raise DependencyDown("Kafka", settings.kafka_bootstrap, cause, remedy="vigil up") from error


def grow(settings: Settings) -> None:
    """Gives the payments topic, and those that follow it, the partitions of the settings where they have fewer.

    Only once nothing reads states by the former number. Raises DependencyDown.
    """
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "socket.timeout.ms": 10_000})
    grown = []
    try:
        for topic in topics(settings):
            has = _partitions(client).get(topic.name)
            if has and has < topic.partitions and (topic.grows or topic.name == settings.topic):
                _wait(client.create_partitions([NewPartitions(topic.name, topic.partitions)]))
                grown.append(topic)
        _await_visible(client, grown, settings)
    except KafkaException as error:
        raise DependencyDown("Kafka", settings.kafka_bootstrap, error.args[0].str()) from error


def _apply(client: Any, settings: Settings) -> list[str]:
    existing = _partitions(client)
    wanted = topics(settings, existing.get(settings.topic, 0))
    changes = []
    for topic in wanted:
        has = existing.get(topic.name)
        if has is None:
            if _create(client, topic):
                changes.append(f"{topic.name}: made with {topic.partitions} partitions")
            continue
        if has < topic.partitions and not topic.grows:
            raise BadConfiguration(
                f"topic {topic.name} has {has} partitions, the settings ask for {topic.partitions}; "
                "adding some would move users away from their state",
                remedy=f"VIGIL_PARTITIONS={has}, and vigil topic grow --partitions {topic.partitions}",
            )
        if has < topic.partitions:
            _wait(client.create_partitions([NewPartitions(topic.name, topic.partitions)]))
            changes.append(f"{topic.name}: grown from {has} to {topic.partitions} partitions")
        changes += _configure(client, topic)
    _await_visible(client, wanted, settings)
    return changes


def _partitions(client: Any) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in client.list_topics(timeout=TIMEOUT_S).topics.items()}


def _await_visible(client: Any, wanted: list[Topic], settings: Settings) -> None:
    """A broker answers that a topic is made before it knows it itself: wait until whoever asks next finds it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        found = _partitions(client)
        lacking = [topic.name for topic in wanted if found.get(topic.name, 0) < topic.partitions]
        if not lacking:
            return
        if time.monotonic() > deadline:
            raise DependencyDown(
                "Kafka", settings.kafka_bootstrap, f"does not show the new partitions of {', '.join(lacking)}"
            )
        time.sleep(0.05)


def _create(client: Any, topic: Topic) -> bool:
    """False where somebody else made it in the meantime."""
    new = NewTopic(topic.name, topic.partitions, BROKER_DEFAULT, config=topic.config)
    try:
        _wait(client.create_topics([new], operation_timeout=TIMEOUT_S))
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    return True


def _configure(client: Any, topic: Topic) -> list[str]:
    """Sets what differs from topics.yaml; settings it does not name are left alone."""
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    current = _wait(client.describe_configs([resource]))
    differing = {key: value for key, value in topic.config.items() if current[key].value != value}
    if not differing:
        return []
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in differing.items()]
    change = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
    _wait(client.incremental_alter_configs([change]))
    return [f"{topic.name}: {key} set to {value}" for key, value in differing.items()]


def _wait(futures: dict[Any, Any]) -> Any:
    """The result of the one operation asked for."""
    (future,) = futures.values()
    return future.result(timeout=3 * TIMEOUT_S)
