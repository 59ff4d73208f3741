"""Topic `alerts`, read from places that are given: there is no group, and nothing is committed."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import Any

from api.alerts.schemas import Event, Places, written
from feature_repo.errors import DependencyDown

TOPIC = "alerts"
ANSWER_S = 3.0
WAIT_S = 0.5
PIECES = 10  # that `some` waits for
MESSAGES = 1_000


class AlertTopic:
    """Blocks; raises DependencyDown."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def bounds(self) -> tuple[Places, Places]:
        """First and next offset of every partition."""
        from confluent_kafka import KafkaException, TopicPartition

        consumer = self._consumer()
        try:
            partitions = consumer.list_topics(TOPIC, timeout=ANSWER_S).topics[TOPIC].partitions
            found = {
                partition: consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=ANSWER_S)
                for partition in partitions
            }
        except KafkaException as error:
            raise self._down(error.args[0].str()) from error
        finally:
            consumer.close()
        if not found or None in found.values():
            raise self._down(f"topic {TOPIC} does not answer")
        return {p: low for p, (low, _) in found.items()}, {p: high for p, (_, high) in found.items()}

    def events(self, places: Places) -> Generator[list[Event]]:
        """What comes from these places on, without end; an empty list where nothing came for WAIT_S.

        `places` moves on with what is given out.
        """
        from confluent_kafka import TopicPartition

        consumer = self._consumer()
        consumer.assign([TopicPartition(TOPIC, partition, offset) for partition, offset in places.items()])
        try:
            while True:
                found = []
                for message in consumer.consume(MESSAGES, WAIT_S):
                    if message.error() is None:  # others pass: librdkafka connects again by itself
                        places[message.partition()] = message.offset() + 1
                        found.append(Event(written(places), message.value() or b"{}"))
                yield found
        finally:
            consumer.close()

    def some(self, places: Places) -> list[Event]:
        """The next ones from these places on, which move on; empty where none came for a while."""
        with closing(self.events(places)) as pieces:
            return next((events for events in islice(pieces, PIECES) if events), [])

    def _consumer(self) -> Any:
        from confluent_kafka import Consumer

        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "vigil-api",  # asked for by librdkafka; partitions are assigned by hand
                "client.id": "vigil-api",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,  # it logs every attempt to reconnect
            }
        )

    def _down(self, cause: str) -> DependencyDown:
        return DependencyDown("Kafka", self._bootstrap, cause)
