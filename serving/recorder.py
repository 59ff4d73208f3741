"""A payment seen by `/detect?record=true`, put on the topic for the stream to decide."""

import time
from typing import Any

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings

TIMEOUT_S = 5.0
POLL_S = 0.05
# librdkafka's names of the two ways producers place a key.
PARTITIONERS = {"murmur2": "murmur2_random", "crc32": "consistent_random"}


class KafkaRecorder:
    """One producer, opened by the first payment that is recorded; safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None

    def record(self, user_id: str, payload: bytes) -> str:
        """See detect.Recorder: durable when this returns `TOPIC-PARTITION-OFFSET`."""
        from confluent_kafka import KafkaError, KafkaException, Message

        outcome: list[tuple[KafkaError | None, Message]] = []
        deadline = time.monotonic() + TIMEOUT_S
        try:
            producer = self._open()
            producer.produce(
                self._settings.topic,
                value=payload,
                key=user_id.encode(),
                on_delivery=lambda error, message: outcome.append((error, message)),
            )
            while not outcome and time.monotonic() < deadline:
                producer.poll(POLL_S)  # also serves the reports other threads wait for
        except (KafkaException, BufferError) as error:
            raise self._down(str(error)) from error
        if not outcome:
            raise self._down(f"no acknowledgement within {TIMEOUT_S:g} s; it may still arrive")
        refusal, message = outcome[0]
        if refusal is not None:
            raise self._down(str(refusal))
        return f"{message.topic()}-{message.partition()}-{message.offset()}"

    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(TIMEOUT_S)

    def _open(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self._settings.kafka_bootstrap,
                    "partitioner": PARTITIONERS[self._settings.partitioner],
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
