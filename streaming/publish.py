"""What leaves on Kafka: decisions, alerts, dead letters and records put back in their place.

Everything carries a stable id, so publishing a range twice is harmless; the ledger remembers which ranges
are out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Producer

from feature_repo.errors import DependencyDown
from feature_repo.hashing import partitions_of
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from streaming.decisions import DeadLetter, decision_id
from streaming.documents import Message, dead_letter_message
from streaming.records import REKEYED

DECISIONS, ALERTS, DEAD_LETTERS = "decisions", "alerts", "transactions.dlq"
ORIGIN_HEADER = "vigil-origin"  # TOPIC-PARTITION-OFFSET of a record that was produced again to its place
PLACED_HEADER = "vigil-placed"  # the number of partitions by which that place was found
QUEUE_MESSAGES, QUEUE_KILOBYTES = 1_000_000, 128 * 1024  # of one process; beyond it `send` waits


class Publisher:
    """One idempotent producer. `flush` raises DependencyDown unless every message since the last is acked.

    A message has `within_s` to be acknowledged, so nothing here waits longer for Kafka. A producer that failed is
    given up with what it still holds: whoever published does it again.
    """

    def __init__(self, bootstrap: str, within_s: float) -> None:
        self._bootstrap = bootstrap
        self._within_s = within_s
        self._failed: list[str] = []
        self._kept: Producer | None = None

    @property
    def _producer(self) -> Producer:
        if self._kept is None:
            self._kept = Producer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "client.id": "vigil-stream",
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "batch.size": 1_000_000,
                    "batch.num.messages": 50_000,
                    "queue.buffering.max.messages": QUEUE_MESSAGES,
                    "queue.buffering.max.kbytes": QUEUE_KILOBYTES,
                    "compression.type": "lz4",
                    "message.timeout.ms": int(self._within_s * 1000),
                    "delivery.report.only.error": True,
                    "log_level": 2,  # what fails is raised; without it, a line per attempt to reconnect
                }
            )
        return self._kept

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
            left = [(message, message.pop("_error")) for message in batch if "_error" in message]
            for _, refusal in left:
                if refusal.code() != KafkaError._QUEUE_FULL:  # a topic that is gone
                    raise self._down(str(refusal))
            batch = [message for message, _ in left]
            if batch:
                self._producer.poll(0.1)

    def send_again(self, topic: str, partition: int, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        """Queue one payment for the partition its user belongs to."""
        while True:
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    on_delivery=self._delivered,
                    headers=list(headers.items()),
                )
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise self._down(str(error)) from error

    def flush(self) -> None:
        left = self._producer.flush(self._within_s)
        if left or self._failed:
            raise self._down(self._failed[0] if self._failed else f"{left} messages not acknowledged in time")

    @property
    def _delivered(self) -> Callable[[KafkaError | None, Any], None]:
        failed = self._failed

        def report(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                failed.append(str(error))

        return report

    def _down(self, cause: str) -> DependencyDown:
        self._kept, self._failed = None, []
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
    to = partition % settings.partitions  # of one that somebody added to the payments alone, only dead letters come
    publisher.send(DECISIONS, to, decisions)
    publisher.send(ALERTS, to, alerts)
    buried = [letter for letter in letters if letter.code != REKEYED]
    publisher.send(
        DEAD_LETTERS, to, [dead_letter_message(settings.topic, partition, processed, each) for each in buried]
    )
    _put_in_place(publisher, settings, partition, [letter for letter in letters if letter.code == REKEYED])
    publisher.flush()


def _put_in_place(publisher: Publisher, settings: Settings, partition: int, letters: list[DeadLetter]) -> None:
    """Produce re-keyed payments again, each into its user's partition, with the coordinates it came from."""
    if not letters:
        return
    payloads = pa.array([letter.payload for letter in letters], pa.binary())
    ingested = np.array([letter.ingested for letter in letters], np.int64)
    users = parse(payloads, ingested, ParseOptions.of(settings)).payments.column("user_id")
    belongs = partitions_of(users, settings.partitions, murmur2=settings.murmur2)
    for letter, user, place in zip(letters, users.to_pylist(), belongs.tolist(), strict=True):
        origin = decision_id(settings.topic, partition, letter.offset)
        headers = {ORIGIN_HEADER: origin, PLACED_HEADER: str(settings.partitions)}
        publisher.send_again(settings.topic, place, user.encode(), letter.payload, headers)
