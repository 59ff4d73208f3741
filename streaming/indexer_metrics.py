"""What an indexer counts, and how far all indexers together are behind, for Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feature_repo.conditions import Condition
from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from streaming.reporter import Reporter
from streaming.search import SearchWriter
from streaming.watch import KAFKA_TIMEOUT_S, spans, watched

SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class IndexerMetrics:
    """Of one indexer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str) -> Counter:
            return Counter(f"vigil_indexer_{name}", what, registry=registry)

        self.documents = counter("documents", "documents written; one delivered again counts again")
        self.bytes = counter("bytes", "size of the documents written, as they are sent")
        self.parked = counter("parked", "documents refused and kept aside in PostgreSQL")
        self.retries = counter("retries", "bulks, or parts of them, sent again")
        self.bulk = Histogram(
            "vigil_indexer_bulk_seconds", "to write one bulk, waiting included", buckets=SECONDS, registry=registry
        )
        self.lag = Gauge(
            "vigil_indexer_lag_records", "decisions that no indexer has written yet", ["partition"], registry=registry
        )
        self.looked = Gauge(
            "vigil_indexer_looked_timestamp_seconds", "when the lag was last looked at", registry=registry
        )


BEHIND_S = 10.0  # a write that waits so long is no busy moment of Elasticsearch's
BEHIND_RECORDS = 100_000  # as the alert SearchBehind has it


@contextmanager
def watching(
    settings: Settings, topic: str, group: str, metrics: IndexerMetrics, search: SearchWriter, reporter: Reporter
) -> Iterator[None]:
    """For as long as the block lasts, `metrics` tell the lag of all indexers of the group together, `reporter` whether
    search is behind."""

    def look(consumer: Consumer) -> None:
        ends = spans(consumer, topic, settings.kafka_bootstrap)
        try:
            committed = consumer.committed([TopicPartition(topic, one) for one in ends], timeout=KAFKA_TIMEOUT_S)
        except KafkaException as error:
            raise DependencyDown("Kafka", settings.kafka_bootstrap, error.args[0].str()) from error
        behind = {one.partition: ends[one.partition].after(one.offset) for one in committed}
        for partition, count in behind.items():
            metrics.lag.labels(partition).set(count)
        lag, since = sum(behind.values()), search.waits_since
        waits = since is not None and time.monotonic() - since > BEHIND_S
        reporter.say([_behind(lag)] if waits or lag > BEHIND_RECORDS else [])

    with watched(settings, group, look, metrics.looked):
        yield


def _behind(count: int) -> Condition:
    return Condition(
        "SEARCH_BEHIND",
        "elasticsearch",
        f"search lacks the newest {count} decisions or more; they are made all the same",
        "vigil logs indexer says what Elasticsearch refuses, vigil restart elasticsearch; search catches up by itself",
    )
