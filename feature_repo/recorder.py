"""Messages put on a topic for good, one request's at a time: payments, labels."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings

TIMEOUT_S = 10.0
POLL_S = 0.05


class Recorder:
    """One producer, opened by the first message; safe to use from several threads. `client` names it to the broker."""

    def __init__(self, settings: Settings, client: str) -> None:
        self._settings = settings
        self._client = client
        self._producer: Any = None

    def record(self, topic: str, messages: Sequence[tuple[str, bytes]]) -> list[str]:
        """(key, value) in this order; all are durable when this returns each one's `TOPIC-PARTITION-OFFSET`.

        Blocks. Raises DependencyDown; some of the messages may have arrived, or still arrive, nevertheless.
        """
        from confluent_kafka import KafkaError, KafkaException, Message

        outcomes: list[tuple[KafkaError | None, Message] | None] = [None] * len(messages)
        waiting = len(messages)
        deadline = time.monotonic() + TIMEOUT_S

        def delivered(row: int, error: KafkaError | None, message: Message) -> None:
            nonlocal waiting
            outcomes[row] = (error, message)
            waiting -= 1

        try:
            producer = self._open()
            for row, (key, value) in enumerate(messages):
                report = partial(delivered, row)
                producer.produce(topic, value=value, key=key.encode(), on_delivery=report)
            while waiting and time.monotonic() < deadline:
                producer.poll(POLL_S)  # also serves the reports other threads wait for
        except (KafkaException, BufferError) as error:
            raise self._down(str(error)) from error
        places = []
        for outcome in outcomes:
            if outcome is None:
                raise self._down(f"no acknowledgement within {TIMEOUT_S:g} s; it may still arrive")
            refusal, message = outcome
            if refusal is not None:
                raise self._down(str(refusal))
            places.append(f"{message.topic()}-{message.partition()}-{message.offset()}")
        return places

    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(TIMEOUT_S)

    def _open(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self._settings.kafka_bootstrap,
                    "client.id": self._client,
                    "partitioner": self._settings.librdkafka_partitioner,
                    "acks": "all",
                    "enable.idempotence": True,
                    "delivery.timeout.ms": int(TIMEOUT_S * 800),  # the verdict comes before we give up
                    "linger.ms": 0,
                    "reconnect.backoff.max.ms": 5_000,
                    "log_level": 2,  # what fails is answered to the caller; without it, a line per retry
                }
            )
        return self._producer

    def _down(self, cause: str) -> DependencyDown:
        return DependencyDown("Kafka", self._settings.kafka_bootstrap, cause)
