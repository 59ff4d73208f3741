"""Topic `decisions` into Elasticsearch: raw bytes in, bulks out, offsets committed after.

Delivery is at least once and writing twice changes nothing, so a crash anywhere costs only repetition.
Every outcome is indexed: scored, unscored and duplicate. With Elasticsearch or PostgreSQL away it holds
its batch and waits; nothing is ever skipped. Several indexers share the work by the consumer group.
"""

import logging
import threading
import time
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import CollectorRegistry

from feature_repo.conditions import INDEXERS
from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from streaming import bulk
from streaming.indexer_metrics import IndexerMetrics, watching
from streaming.parking import Parking
from streaming.reporter import reported
from streaming.search import BULK_BYTES, Refusal, SearchWriter
from streaming.watch import KAFKA_TIMEOUT_S, spans

log = logging.getLogger(__name__)

TOPIC = "decisions"
CHUNK = 2_000  # messages per call of the client
LINGER_S = 0.3  # how long a document may wait for others
REPORT_S = 30.0


@dataclass
class Counts:
    """What one run did. `documents` counts deliveries: one delivered again counts again."""

    documents: int = 0
    bulks: int = 0
    parked: int = 0
    retries: int = 0


@dataclass
class Batch:
    """One bulk to be, and where Kafka stands after it: next offset by partition."""

    entries: list[bytes] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    size: int = 0  # bytes

    def add(self, messages: list[Message]) -> None:
        for message in messages:
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None:
                if error.fatal():
                    raise DependencyDown("Kafka", TOPIC, error.str())
                log.warning("Kafka: %s", error.str())
                continue
            assert partition is not None and offset is not None, "only an error has none"
            entry = bulk.entry(message.value() or b"")
            if entry is None:
                self.refused.append(_not_a_decision(message))
            else:
                self.entries.append(entry)
                self.size += len(entry)
            self.positions[partition] = offset + 1


def run(
    settings: Settings,
    stop: threading.Event,
    until_caught_up: bool = False,
    group: str = INDEXERS,
    metrics: IndexerMetrics | None = None,
) -> Counts:
    """Indexes until `stop` is set, or until all that was in the topic at the start is indexed.

    The batch under way is finished first, unless a server it needs is away: then it is left for the
    next start. Raises DependencyDown where Kafka does not answer at the start.
    """
    counts = Counts()
    metrics = metrics or IndexerMetrics(CollectorRegistry())
    consumer = _consumer(settings, group)
    try:
        goal = _ends(consumer, settings)
        consumer.subscribe([TOPIC], on_assign=_report_expired)
        with (
            SearchWriter(settings, stop) as search,
            Parking(settings, stop) as parking,
            reported(settings, "indexer") as reporter,
            watching(settings, TOPIC, group, metrics, search, reporter),
        ):
            told = time.monotonic()
            while not stop.is_set() and not (until_caught_up and _reached(consumer, goal)):
                batch = _gather(consumer)
                if batch.positions:
                    with metrics.bulk.time():
                        refused = search.write(batch.entries)
                    if refused is None or not parking.park(batch.refused + refused):
                        break
                    _commit(consumer, batch.positions)
                    parked = len(batch.refused) + len(refused)
                    metrics.documents.inc(len(batch.entries) - len(refused))
                    metrics.bytes.inc(batch.size)
                    metrics.parked.inc(parked)
                    metrics.retries.inc(search.retries - counts.retries)
                    counts.documents += len(batch.entries)
                    counts.bulks += 1
                    counts.parked += parked
                    counts.retries = search.retries
                if time.monotonic() - told > REPORT_S:
                    told = time.monotonic()
                    log.info("%s", counts)
    finally:
        consumer.close()
    return counts


def _consumer(settings: Settings, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "max.poll.interval.ms": 600_000,  # past it, while holding, another member may take over
            "queued.max.messages.kbytes": 32_768,  # bounds memory when Elasticsearch is slower than Kafka
            "fetch.queue.backoff.ms": 50,
            "reconnect.backoff.ms": 500,
            # The client itself logs every attempt to reconnect, twenty a second; _Notices says it once.
            "log_level": 0,
            "error_cb": _Notices(),
        }
    )


class _Notices:
    """Logs what the client has to tell, each kind once in a while. It reconnects by itself."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now - self._last.get(error.code(), -REPORT_S) >= REPORT_S:
            self._last[error.code()] = now
            log.warning("Kafka: %s", error.str())


def _gather(consumer: Consumer) -> Batch:
    """Messages for one bulk: full, or all there are within the linger time."""
    batch = Batch()
    while batch.size < BULK_BYTES:
        messages = consumer.consume(CHUNK, LINGER_S)
        batch.add(messages)
        if len(messages) < CHUNK:
            break
    return batch


def _commit(consumer: Consumer, positions: dict[int, int]) -> None:
    """Not committing is harmless (the documents come again), so no failure here ends the run."""
    offsets = [TopicPartition(TOPIC, partition, offset) for partition, offset in positions.items()]
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:
        log.warning("offsets not committed, documents will come again: %s", error.args[0].str())


def _ends(consumer: Consumer, settings: Settings) -> dict[int, int]:
    """Where the topic ends now, by partition, without the partitions that hold nothing."""
    found = spans(consumer, TOPIC, settings.kafka_bootstrap)
    return {partition: span.high for partition, span in found.items() if span.high > span.low}


def _reached(consumer: Consumer, goal: dict[int, int]) -> bool:
    """Whether the group, whichever member did it, has committed up to `goal`."""
    if not goal:
        return True
    try:
        committed = consumer.committed(
            [TopicPartition(TOPIC, partition) for partition in goal], timeout=KAFKA_TIMEOUT_S
        )
    except KafkaException as error:
        log.warning("cannot ask how far the group is: %s", error.args[0].str())
        return False
    return all(position.offset >= goal[position.partition] for position in committed)


def _report_expired(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """Documents that left the topic before they were indexed are found in PostgreSQL only."""
    try:
        for position in consumer.committed(partitions, timeout=KAFKA_TIMEOUT_S):
            low, _ = consumer.get_watermark_offsets(position, timeout=KAFKA_TIMEOUT_S)
            if 0 <= position.offset < low:
                log.error(
                    "%s-%d: offsets %d to %d expired before they were indexed; run `vigil reindex`",
                    *(TOPIC, position.partition, position.offset, low - 1),
                )
    except KafkaException as error:
        log.warning("cannot tell whether documents expired: %s", error.args[0].str())


def _not_a_decision(message: Message) -> Refusal:
    place = f"{message.topic()}-{message.partition()}-{message.offset()}"
    reason = "the message does not start with decision_id, revision and ingested_at"
    return Refusal(place, 0, bulk.NOT_A_DECISION, reason)
