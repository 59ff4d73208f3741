"""The payments topic read as what it is, a log: records of a partition in order, and which of them Kafka still has."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from streaming.watch import Span, spans, waiting, watcher

READ_RECORDS, READ_S = 50_000, 0.2  # at a time: so many, or what comes within so long
SILENCE_S = 30.0  # of Kafka, after which it is taken to be away

Piece = tuple[npt.NDArray[np.int64], pa.Array, npt.NDArray[np.int64]]


def records(settings: Settings, partition: int, first: int, until: int) -> Iterator[Piece]:
    """Offsets, values and broker's times (microseconds) of the records from `first` to before `until`, as far as
    retained. Raises DependencyDown.
    """
    for messages in _messages(settings, partition, first, until):
        yield (
            np.array([message.offset() for message in messages], np.int64),
            pa.array([message.value() for message in messages], pa.binary()),
            np.array([message.timestamp()[1] * 1_000 for message in messages], np.int64),
        )


def record(settings: Settings, partition: int, offset: int) -> Message | None:
    """The record at this offset; None where Kafka holds none there any more. Raises DependencyDown."""
    for messages in _messages(settings, partition, offset, offset + 1):
        return messages[0]
    return None


def kept(settings: Settings) -> dict[int, Span]:
    """By partition the oldest offset Kafka still has, and the one after its newest. Raises DependencyDown."""
    with consumer(settings) as client:
        return spans(client, settings.topic, settings.kafka_bootstrap, SILENCE_S)


def unread(settings: Settings, decided: Mapping[int, int]) -> int:
    """Records of all partitions from `decided` on, by partition, that a stream can read. Raises DependencyDown."""
    with closing(watcher(settings, "vigil-log")) as client:
        return sum(waiting(client, settings.topic, settings.kafka_bootstrap, decided, SILENCE_S).values())


def first_after(settings: Settings, partition: int, micros: int) -> int:
    """The oldest retained offset the broker stamped later than a time; the end where there is none. Raises
    DependencyDown."""
    with consumer(settings) as client, _reached(settings):
        asked = TopicPartition(settings.topic, partition, micros // 1_000 + 1)
        (found,) = client.offsets_for_times([asked], timeout=SILENCE_S)
        if found.offset >= 0:
            return int(found.offset)
        return int(client.get_watermark_offsets(asked, timeout=SILENCE_S)[1])


def topic_id(settings: Settings) -> str:
    """Kafka's id of the topic: another one after it was deleted and made again. Raises DependencyDown."""
    with _reached(settings):
        admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
        described = admin.describe_topics(TopicCollection([settings.topic]), request_timeout=SILENCE_S)
        return str(described[settings.topic].result().topic_id)


@contextmanager
def _reached(settings: Settings) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise DependencyDown("Kafka", settings.kafka_bootstrap, str(error)) from error


def consumer(settings: Settings, group: str = "vigil-log") -> closing[Consumer]:
    """For a `with` block. Reads what is committed, from the beginning where it is asked for what is gone."""
    return closing(
        Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
    )


def _messages(settings: Settings, partition: int, first: int, until: int) -> Iterator[list[Message]]:
    with consumer(settings) as client:
        client.assign([TopicPartition(settings.topic, partition, first)])
        silent = time.monotonic() + SILENCE_S
        while True:
            answered = client.consume(READ_RECORDS, READ_S)
            ended = any(_is_end(message, settings) for message in answered)
            messages = [message for message in answered if message.error() is None]
            wanted = [message for message in messages if (message.offset() or 0) < until]
            if wanted:
                yield wanted
            if ended or any((message.offset() or 0) >= until - 1 for message in messages[-1:]):
                return
            if answered:
                silent = time.monotonic() + SILENCE_S
            elif time.monotonic() > silent:
                raise DependencyDown("Kafka", settings.kafka_bootstrap, f"no record for {SILENCE_S:.0f} s")


def _is_end(message: Message, settings: Settings) -> bool:
    """Whether this is the end of the partition. Raises DependencyDown for any other error."""
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        raise DependencyDown("Kafka", settings.kafka_bootstrap, error.str())
    return error is not None
