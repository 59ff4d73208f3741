"""The payments topic read by a consumer of its own, of no group and committing nothing: for checks and repairs."""

import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings

READ_RECORDS, READ_S = 50_000, 0.2  # at a time: so many, or what comes within so long
SILENCE_S = 30.0  # of Kafka, after which it is taken to be away


def read(
    settings: Settings, partition: int, first: int, last: int
) -> Iterator[tuple[npt.NDArray[np.int64], pa.Array, npt.NDArray[np.int64]]]:
    """Offsets, values and broker's times (microseconds) of the records from `first` to `last`, as far as retained.

    A few after `last` may come along. Raises DependencyDown.
    """
    for messages in _messages(settings, partition, first, last):
        yield (
            np.array([message.offset() for message in messages], np.int64),
            pa.array([message.value() for message in messages], pa.binary()),
            np.array([message.timestamp()[1] * 1_000 for message in messages], np.int64),
        )


def record(settings: Settings, partition: int, offset: int) -> Message | None:
    """The first record that Kafka still holds at this offset or after it; None at the end. Raises DependencyDown."""
    for messages in _messages(settings, partition, offset, offset):
        return messages[0]
    return None


def kept(settings: Settings) -> dict[int, tuple[int, int]]:
    """Of each partition the oldest offset Kafka still has, and the one after the newest. Raises DependencyDown."""
    with consumer(settings) as client:
        try:
            partitions = client.list_topics(settings.topic, timeout=SILENCE_S).topics[settings.topic].partitions
            return {
                number: client.get_watermark_offsets(TopicPartition(settings.topic, number), timeout=SILENCE_S)
                for number in partitions
            }
        except KafkaException as error:
            raise DependencyDown("Kafka", settings.kafka_bootstrap, str(error)) from error


def consumer(settings: Settings, group: str = "vigil-look") -> closing[Consumer]:
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


def _messages(settings: Settings, partition: int, first: int, last: int) -> Iterator[list[Message]]:
    with consumer(settings) as client:
        client.assign([TopicPartition(settings.topic, partition, first)])
        silent = time.monotonic() + SILENCE_S
        while True:
            answered = client.consume(READ_RECORDS, READ_S)
            ended = any(_is_end(message, settings) for message in answered)
            messages = [message for message in answered if message.error() is None]
            if messages:
                yield messages
            if ended or any((message.offset() or 0) >= last for message in messages[-1:]):
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
