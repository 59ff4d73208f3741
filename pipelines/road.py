"""The state of the road seen from outside: what Kafka holds, what PostgreSQL decided, what search knows."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg2
from confluent_kafka import Consumer, KafkaException, TopicPartition
from elasticsearch import Elasticsearch

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from pipelines import log

ANSWER_S = 10.0
ALIAS = "decisions"
SETTLE_POLL_S = 1.0  # each look makes Elasticsearch refresh


def log_ends(settings: Settings, topic: str) -> dict[int, int]:
    """The offset after the last record of every partition, asked of Kafka with a client of its own."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "vigil-look"})
    try:
        partitions = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ANSWER_S)[1]
            for number in partitions
        }
    except KafkaException as error:
        raise DependencyDown("kafka", settings.kafka_bootstrap, str(error)) from error
    finally:
        consumer.close()


def decided_until(settings: Settings) -> dict[int, int]:
    """`committed_until` by partition."""
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s", (settings.topic,))
        return dict(cursor.fetchall())


def lag(settings: Settings) -> int:
    """Offsets of the payments topic without an outcome, those that no record has (marks of transactions) included."""
    decided = decided_until(settings)
    return sum(end - decided.get(partition, 0) for partition, end in log_ends(settings, settings.topic).items())


def unread(settings: Settings) -> int:
    """Records of the payments topic that can be read and have no outcome."""
    return log.unread(settings, decided_until(settings))


def outcomes(settings: Settings) -> dict[str, int]:
    """Offsets by outcome, dead letters by code: the sum is every offset that has one."""
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT outcome, count(*) FROM decisions WHERE revision = 1 GROUP BY 1")
        counts = dict(cursor.fetchall())
        cursor.execute("SELECT code, count(*) FROM dead_letters GROUP BY 1")
        return {**counts, **dict(cursor.fetchall())}


@dataclass(frozen=True)
class Counts:
    """What was decided since a moment."""

    decisions: int
    flagged: int
    by_outcome: dict[str, int]
    dead_letters: dict[str, int]  # by code
    versions: tuple[str, ...]


def outcomes_since(settings: Settings, start: float) -> Counts:
    """Outcomes decided since `start` (seconds since 1970)."""
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT outcome, model_version, count(*), count(*) FILTER (WHERE is_anomaly) FROM decisions "
            "WHERE processed_at >= to_timestamp(%s) GROUP BY 1, 2",
            (start,),
        )
        groups = cursor.fetchall()
        cursor.execute(
            "SELECT code, count(*) FROM dead_letters WHERE processed_at >= to_timestamp(%s) GROUP BY 1", (start,)
        )
        buried = dict(cursor.fetchall())
    by_outcome: dict[str, int] = {}
    for outcome, _, count, _ in groups:
        by_outcome[outcome] = by_outcome.get(outcome, 0) + count
    return Counts(
        decisions=sum(by_outcome.values()),
        flagged=sum(flagged for *_, flagged in groups),
        by_outcome=by_outcome,
        dead_letters=buried,
        versions=tuple(sorted({version for _, version, *_ in groups if version})),
    )


def decisions(settings: Settings) -> int:
    """Decisions as the ledger counted them, commit by commit: the table itself takes seconds to count."""
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(scored + unscored + duplicates), 0) FROM ledger_ranges")
        row = cursor.fetchone()
        return int(row[0]) if row else 0


def decided(settings: Settings) -> int:
    """Records with an outcome as the ledger counted them."""
    return sum(decided_until(settings).values())


def documents(settings: Settings) -> int:
    """Documents in Elasticsearch, those not yet refreshed included."""
    client = Elasticsearch(settings.elasticsearch_url, request_timeout=ANSWER_S)
    try:
        client.indices.refresh(index=ALIAS, ignore_unavailable=True)
        return int(client.count(index=ALIAS, ignore_unavailable=True)["count"])
    finally:
        client.close()


@dataclass(frozen=True)
class Settled:
    """Whether the road came to rest, and how much was left when waiting ended."""

    lag: int
    missing_documents: int

    @property
    def complete(self) -> bool:
        return self.lag == 0 and self.missing_documents == 0


def settle(
    settings: Settings,
    timeout_s: float,
    *,
    search: bool = True,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Settled:
    """Wait until every record has its outcome and, with `search`, every decision its document."""
    deadline = clock() + timeout_s
    while True:
        left = unread(settings)
        missing = decisions(settings) - documents(settings) if search and left == 0 else 0
        settled = Settled(left, missing)
        if (settled.complete and unread(settings) == 0) or clock() > deadline:
            return settled
        sleep(SETTLE_POLL_S)
