"""A range of the payments topic, read from Kafka by the task that takes it.

Through Spark a record costs three times as much: a row in the JVM, a column, a pipe (measured 2026-11-27).
"""

import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from feature_repo.errors import DependencyDown, RecordsGone, StreamStopped, VigilError
from feature_repo.settings import Settings
from streaming.offsets import OffsetRange
from streaming.publish import PLACED_HEADER
from streaming.records import Records

AT_ONCE, AT_ONCE_S = 10_000, 0.02  # asked of the client: so many records, or what comes within so long
PIECE_BYTES = 128 << 20  # of payloads in memory; a range that has more of them is taken in pieces
SILENCE_S = 15.0  # of Kafka, after which it is taken to be away


class Reader:
    """Reads ranges, one after the other: of a range that follows the last one some has been fetched already."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._placed = (PLACED_HEADER, str(settings.partitions).encode())
        self._position: tuple[int, int] | None = None  # partition and offset that the client is asked for next
        self._beyond: list[Message] = []  # came with a range and lie behind it
        self._end = 0  # the client has handed over all there is before this offset, and told so only once
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "client.id": "vigil-stream",
                "group.id": "vigil-stream",  # librdkafka wants one; nothing is committed
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "check.crcs": True,
                # What is fetched ahead is lost when another worker gets the partition next, so it is not much.
                "queued.max.messages.kbytes": 8 << 10,
                "fetch.message.max.bytes": 4 << 20,
                "fetch.queue.backoff.ms": 2,
                # The broker answers a connection's requests in order: one that waits holds up the next.
                "fetch.wait.max.ms": 20,
                "fetch.min.bytes": 256 << 10,
                "log_level": 2,
            }
        )

    def read(self, wanted: OffsetRange) -> Iterator[Records]:
        """The records of a range in order: none where it holds none, several pieces where they are large.

        Raises RecordsGone, StreamStopped where the topic was cut short, DependencyDown where Kafka does not answer.
        """
        messages: list[Message] = []
        size = 0
        for some in self._messages(wanted):
            messages += some
            size += sum(map(len, some))
            if size >= PIECE_BYTES:
                yield self._records(wanted.partition, messages)
                messages, size = [], 0
        if messages:
            yield self._records(wanted.partition, messages)

    def _messages(self, wanted: OffsetRange) -> Iterator[list[Message]]:
        partition, offset, until = wanted
        if self._position != (partition, offset):
            self._seek(partition, offset)
        answered, self._beyond, self._position = self._beyond, [], None
        deadline = time.monotonic() + SILENCE_S
        while True:
            messages = [message for message in answered if message.error() is None]
            if len(messages) < len(answered):
                self._heed(partition, offset, [message for message in answered if message.error() is not None])
            if messages:
                offset = _offset(messages[-1]) + 1
                if offset > until:
                    self._beyond = [message for message in messages if _offset(message) >= until]
                    messages = messages[: len(messages) - len(self._beyond)]
                yield messages
                deadline = time.monotonic() + SILENCE_S
            if offset >= until or self._end >= until:  # the last offsets may hold marks of transactions, no records
                self._position = partition, until
                return
            if time.monotonic() > deadline:
                raise self._down(f"no record of partition {partition} from {offset} on within {SILENCE_S:.0f} s")
            answered = self._consumer.consume(min(until - offset, AT_ONCE), AT_ONCE_S)

    def _seek(self, partition: int, offset: int) -> None:
        self._beyond, self._end = [], 0
        with suppress(KafkaException):
            self._consumer.unassign()
        try:
            self._consumer.assign([TopicPartition(self._settings.topic, partition, offset)])
        except KafkaException as error:
            raise self._down(str(error)) from error

    def _heed(self, partition: int, offset: int, events: list[Message]) -> None:
        """What the client tells beside records, while it is asked for a partition's records from `offset` on."""
        for event in events:
            error = event.error()
            assert error is not None
            if event.partition() != partition:
                continue  # of the group, which we do not need, or of what was read before
            if error.code() == KafkaError._PARTITION_EOF:
                self._end = _offset(event)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise self._lost(partition, offset)
            else:
                raise self._down(error.str())

    def _lost(self, partition: int, offset: int) -> VigilError:
        """Why the broker has nothing at this offset."""
        topic = self._settings.topic
        try:
            oldest, _ = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=SILENCE_S)
        except KafkaException as error:
            return self._down(str(error))
        if oldest > offset:
            return RecordsGone(topic, partition, offset, oldest)
        return StreamStopped(f"{topic}-{partition} ends before offset {offset}: it was made again, or cut short")

    def _down(self, cause: str) -> DependencyDown:
        return DependencyDown("Kafka", self._settings.kafka_bootstrap, cause)

    def _records(self, partition: int, messages: list[Message]) -> Records:
        n = len(messages)
        return Records(
            partition=partition,
            offsets=np.fromiter((message.offset() for message in messages), np.int64, n),
            values=pa.array([message.value() for message in messages], pa.binary()),
            ingested=np.fromiter((message.timestamp()[1] for message in messages), np.int64, n) * 1_000,
            moved=np.fromiter((self._moved(message) for message in messages), np.bool_, n),
        )

    def _moved(self, message: Message) -> bool:
        try:
            return self._placed in (message.headers() or ())
        except SystemError:  # what the client raises for a header whose name is no UTF-8: ours is
            return False


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None  # of a message that was never sent
    return offset
