"""Looks at the stores with clients of its own and trusts none of our counters."""

from dataclasses import dataclass

import psycopg2
from confluent_kafka import Consumer, TopicPartition
from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan

from feature_repo.settings import Settings

Place = tuple[int, int]  # partition, offset


@dataclass(frozen=True)
class Row:
    """What was decided about one record, as far as it must never change."""

    transaction_id: str
    outcome: str
    score: float | None
    decision: str | None
    model_version: str | None


def log(settings: Settings) -> dict[Place, bytes | None]:
    """Every record of the payments topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": "checker",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        }
    )
    found: dict[Place, bytes | None] = {}
    try:
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(settings.topic, number), timeout=10)[1]
            for number in consumer.list_topics(settings.topic, timeout=10).topics[settings.topic].partitions
        }
        consumer.assign([TopicPartition(settings.topic, number, 0) for number in ends])
        while len(found) < sum(ends.values()):
            message = consumer.poll(10)
            assert message is not None and message.error() is None
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            found[(partition, offset)] = message.value()
    finally:
        consumer.close()
    return found


def rows(settings: Settings) -> list[tuple[Place, Row]]:
    """Every row of `decisions`, revision 1."""
    return [
        ((partition, offset), Row(*rest))
        for partition, offset, *rest in _query(
            settings,
            "SELECT kafka_partition, kafka_offset, transaction_id, outcome, anomaly_score, decision, model_version "
            "FROM decisions WHERE revision = 1",
        )
    ]


def dead_letters(settings: Settings) -> list[tuple[Place, str]]:
    return [
        ((partition, offset), code)
        for partition, offset, code in _query(settings, "SELECT kafka_partition, kafka_offset, code FROM dead_letters")
    ]


def overlapping_ranges(settings: Settings) -> int:
    """Ledger ranges that begin before an earlier one of their partition ends."""
    return len(
        _query(
            settings,
            "SELECT 1 FROM (SELECT first_offset, lag(until_offset) OVER (PARTITION BY kafka_partition "
            "ORDER BY first_offset) AS before FROM ledger_ranges) r WHERE first_offset < before",
        )
    )


def documents(settings: Settings) -> set[str]:
    """`_id` of every document."""
    client = Elasticsearch(settings.elasticsearch_url)
    try:
        client.indices.refresh(index="decisions")
        return {hit["_id"] for hit in scan(client, index="decisions", query={"_source": False})}
    finally:
        client.close()


def _query(settings: Settings, sql: str) -> list[tuple]:  # type: ignore[type-arg]  # rows of any query
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
