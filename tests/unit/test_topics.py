"""topics.yaml, and what becomes of it with the settings."""

import yaml

from feature_repo.settings import Settings
from infra.kafka.provision import TOPICS_FILE, topics

NAMES = {"transactions", "decisions", "alerts", "transactions.dlq", "labels", "rules"}


def test_all_topics_of_the_road_are_there() -> None:
    assert {topic.name for topic in topics(Settings())} == NAMES


def test_the_payments_topic_has_the_name_and_partitions_of_the_settings() -> None:
    found = {topic.name: topic for topic in topics(Settings(topic="payments", partitions=7))}
    assert set(found) == NAMES - {"transactions"} | {"payments"}
    assert found["payments"].partitions == 7 and not found["payments"].grows


def test_what_is_placed_by_partition_has_as_many_as_the_payments_topic_has_now() -> None:
    found = {topic.name: topic for topic in topics(Settings(partitions=4), payments_now=9)}
    for name in ("decisions", "alerts", "transactions.dlq"):
        assert found[name].partitions == 9 and found[name].grows
    assert found["transactions"].partitions == 4


def test_every_topic_has_the_brokers_clock_and_says_how_long_it_is_kept() -> None:
    for topic in topics(Settings()):
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
        assert ("retention.ms" in topic.config) != (topic.config["cleanup.policy"] == "compact")
        assert all(isinstance(value, str) for value in topic.config.values())


def test_every_topic_names_its_purpose_and_writers() -> None:
    for name, entry in yaml.safe_load(TOPICS_FILE.read_text())["topics"].items():
        assert entry["what"] and entry["writers"], name
