"""How far behind the work is, looked at by a thread of its own: also, and above all, while the work stands still."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client import Gauge

from feature_repo.errors import BadConfiguration, DependencyDown, VigilError
from feature_repo.settings import Settings

log = logging.getLogger(__name__)

EVERY_S = 5.0
KAFKA_TIMEOUT_S = 5.0


class Span(NamedTuple):
    """Offsets of a partition that Kafka holds: the first, and the one after the last."""

    low: int
    high: int

    def after(self, position: int) -> int:
        """Records from `position` on."""
        return max(0, self.high - max(position, self.low))


def spans(consumer: Consumer, topic: str, bootstrap: str, timeout_s: float = KAFKA_TIMEOUT_S) -> dict[int, Span]:
    """By partition. Raises DependencyDown, BadConfiguration without the topic."""
    try:
        found = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if found.error is not None:
            raise BadConfiguration(f"topic {topic}: {found.error.str()}", remedy="vigil up makes the topics")
        return {
            partition: Span(*consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_s))
            for partition in found.partitions
        }
    except KafkaException as error:
        raise DependencyDown("Kafka", bootstrap, error.args[0].str(), remedy="vigil up") from error


def waiting(
    consumer: Consumer, topic: str, bootstrap: str, decided: Mapping[int, int], timeout_s: float = KAFKA_TIMEOUT_S
) -> dict[int, int]:
    """By partition the records from `decided` on that a stream can read, counted by their offsets.

    A transaction leaves a mark after its records, and records that nobody reads where it was aborted: neither waits for
    anything. So the next record is looked for; where there is none none waits, whatever the offsets say. What a
    transaction holds back that is not over cannot be read yet. `consumer` is one of `watcher`. Raises DependencyDown,
    BadConfiguration.
    """
    found = spans(consumer, topic, bootstrap, timeout_s)
    left = {number: span.after(decided.get(number, 0)) for number, span in found.items()}
    sought = {number for number, count in left.items() if count}
    if not sought:
        return left
    consumer.assign(
        [TopicPartition(topic, number, max(found[number].low, decided.get(number, 0))) for number in sought]
    )
    try:
        deadline = time.monotonic() + timeout_s
        while sought:
            message = consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is None or time.monotonic() > deadline:
                raise DependencyDown("Kafka", bootstrap, f"no answer within {timeout_s:.0f} s", remedy="vigil up")
            error, number, offset = message.error(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise DependencyDown("Kafka", bootstrap, error.str(), remedy="vigil up")
            if number in sought:
                sought.discard(number)
                left[number] = 0 if error is not None or offset is None else found[number].after(offset)
        return left
    except KafkaException as error:
        raise DependencyDown("Kafka", bootstrap, error.args[0].str(), remedy="vigil up") from error
    finally:
        consumer.unassign()


def watcher(settings: Settings, group: str) -> Consumer:
    """A consumer for `spans` and `waiting`: it subscribes to nothing, so the group's members never hear of it."""
    return Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": group,
            "log_level": 0,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # It wants to know one record of each partition. (A batch that is larger than the bytes to fetch at most is
            # not read for seconds: those stay at librdkafka's megabyte.)
            "queued.min.messages": 1,
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 10,
        }
    )


@contextmanager
def watched(settings: Settings, group: str, look: Callable[[Consumer], None], looked: Gauge) -> Iterator[None]:
    """Calls `look` every EVERY_S; `looked` is when it last came through, so that old numbers are known as such."""
    stop = threading.Event()

    def run() -> None:
        said = ""
        with closing(watcher(settings, group)) as consumer:
            while not stop.wait(EVERY_S):
                try:
                    look(consumer)
                    looked.set(time.time())
                    said = ""
                except VigilError as error:
                    if str(error) != said:  # once, however long the server is away
                        log.warning("metrics stand still: %s", error)
                    said = str(error)

    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
