"""What leaves on Kafka: decisions, alerts, dead letters and records put back in their place.

Everything carries a stable id, so publishing a range twice is harmless; the ledger remembers which ranges
are out.
"""

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from feature_repo.errors import DependencyDown
from feature_repo.hashing import partitions_of
from feature_repo.parser import ParseOptions, parse_one
from feature_repo.settings import Settings
from streaming.decisions import DeadLetter, decision_id
from streaming.documents import Message, dead_letter_message
from streaming.records import REKEYED

DECISIONS, ALERTS, DEAD_LETTERS = "decisions", "alerts", "transactions.dlq"
ORIGIN_HEADER = "vigil-origin"  # TOPIC-PARTITION-OFFSET of a record that was produced again to its place
FLUSH_TIMEOUT_S = 30.0
QUEUE_MESSAGES = 1_000_000


class Publisher:
    """One idempotent producer. `flush` raises DependencyDown unless every message since the last is acked."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "vigil-stream",
                "enable.idempotence": True,
                "linger.ms": 5,
                "batch.size": 1_000_000,
                "batch.num.messages": 50_000,
                "queue.buffering.max.messages": QUEUE_MESSAGES,
                "queue.buffering.max.kbytes": 512 * 1024,
                "compression.type": "lz4",
                "message.timeout.ms": int(FLUSH_TIMEOUT_S * 1000),
                "delivery.report.only.error": True,
            }
        )

    def send(self, topic: str, partition: int, messages: list[Message]) -> None:
        """Queue messages for one partition, in order."""
        batch: list[Any] = list(messages)
        while batch:
            try:
                self._producer.produce_batch(topic, batch, partition=partition, on_delivery=self._delivered)
            except BufferError:
                pass  # some are queued, the others carry _error
            except KafkaException as error:
                raise self._down(str(error)) from error
            batch = [message for message in batch if message.pop("_error", None) is not None]
            if batch:
                self._producer.poll(0.1)

    def send_again(self, topic: str, partition: int, key: bytes, value: bytes, origin: str) -> None:
        """Queue one payment for the partition its user belongs to, with the coordinates it came from."""
        while True:
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    on_delivery=self._delivered,
                    headers={ORIGIN_HEADER: origin},
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        failed, self._failed = self._failed, []
        if left or failed:
            raise self._down(failed[0] if failed else f"{left} messages not acknowledged in time")

    @property
    def _delivered(self) -> Callable[[KafkaError | None, Any], None]:
        def report(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                self._failed.append(str(error))

        return report

    def _down(self, cause: str) -> DependencyDown:
        return DependencyDown("Kafka", self._bootstrap, cause)


def publish_range(
    publisher: Publisher,
    settings: Settings,
    partition: int,
    decisions: list[Message],
    alerts: list[Message],
    letters: list[DeadLetter],
    processed: int,
) -> None:
    """Put all that a range came to on Kafka, acknowledged; `processed` in microseconds. Raises DependencyDown."""
    publisher.send(DECISIONS, partition, decisions)
    publisher.send(ALERTS, partition, alerts)
    buried = [letter for letter in letters if letter.code != REKEYED]
    publisher.send(
        DEAD_LETTERS, partition, [dead_letter_message(settings.topic, partition, processed, each) for each in buried]
    )
    for letter in letters:
        if letter.code == REKEYED:
            _put_in_place(publisher, settings, partition, letter)
    publisher.flush()


def _put_in_place(publisher: Publisher, settings: Settings, partition: int, letter: DeadLetter) -> None:
    """Produce a re-keyed payment again, into the partition its user belongs to."""
    payment = parse_one(letter.payload, letter.ingested, ParseOptions.of(settings))
    user = payment.column("user_id")
    belongs = partitions_of(user, settings.partitions, murmur2=settings.murmur2)
    origin = decision_id(settings.topic, partition, letter.offset)
    publisher.send_again(settings.topic, int(belongs[0]), user[0].as_py().encode(), letter.payload, origin)
