"""What an indexer counts, and how far all indexers together are behind, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
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


@contextmanager
def watching(settings: Settings, topic: str, group: str, metrics: IndexerMetrics) -> Iterator[None]:
    """For as long as the block lasts, `metrics` tell the lag of all indexers of the group together."""

    def look(consumer: Consumer) -> None:
        ends = spans(consumer, topic, settings.kafka_bootstrap)
        try:
            committed = consumer.committed([TopicPartition(topic, one) for one in ends], timeout=KAFKA_TIMEOUT_S)
        except KafkaException as error:
            raise DependencyDown("Kafka", settings.kafka_bootstrap, error.args[0].str()) from error
        for position in committed:
            metrics.lag.labels(position.partition).set(ends[position.partition].after(position.offset))

    with watched(settings, group, look, metrics.looked):
        yield
