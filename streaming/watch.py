"""How far behind the work is, looked at by a thread of its own: also, and above all, while the work stands still."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
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


@contextmanager
def watched(settings: Settings, group: str, look: Callable[[Consumer], None], looked: Gauge) -> Iterator[None]:
    """Calls `look` every EVERY_S; `looked` is when it last came through, so that old numbers are known as such."""
    stop = threading.Event()

    def run() -> None:
        said = ""
        # It subscribes to nothing, so the group's members never hear of it.
        consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": group, "log_level": 0})
        with closing(consumer):
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
