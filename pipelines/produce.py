"""Payments into Kafka at a set rate, counted exactly.

The rate is an open loop: what is due is due by the clock, whatever the broker does; a delay is caught up
at no more than twice the rate. Messages carry the user as key and go where Java's partitioner puts them.
"""

import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from feature_repo.errors import BadConfiguration, DependencyDown
from feature_repo.labels import TOPIC
from feature_repo.settings import Settings
from pipelines.clock import Clock, SystemClock
from pipelines.defects import Counts, Defects, messages
from pipelines.defects import Message as ToSend
from pipelines.sources import Report

SIMULATOR = "simulator"  # who says so
TICK_S = 0.01  # how often what is due is sent
LARGEST_BATCH = 8_192  # payments prepared at once
LARGEST_STEP = 2_048  # messages between two polls
CATCH_UP = 2.0  # times the rate at most
ANSWER_S = 5.0  # within which a broker must answer before anything is sent
DOWN_S = 8.0  # without any broker for so long: DependencyDown
DELIVERY_S = 60  # after which librdkafka gives a message up
_log = logging.getLogger("vigil.produce")


@dataclass(frozen=True)
class Produced:
    """What was sent. `sent` = `payments` + `malformed` + `duplicates`; `delivered` is what Kafka confirmed."""

    payments: int = 0
    sent: int = 0
    delivered: int = 0
    malformed: dict[str, int] = field(default_factory=dict)  # by the code the parser gives it
    duplicates: int = 0
    unkeyed: int = 0  # of `payments`; the stream sends them on, so their place in the order is later than here
    late: int = 0  # of `payments`: sent behind the newest event time of the same user in this run
    labels: int = 0  # on topic labels, on top of `sent`
    by_partition: dict[int, int] = field(default_factory=dict)
    first_event: str = ""
    last_event: str = ""
    seconds: float = 0.0
    per_second: float = 0.0
    behind_s: float = 0.0  # how late the last message was against its due time
    stopped: bool = False  # by the caller, before the end; the counts are of what was sent

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Delivery:
    """A producer and what became of its messages."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.address = settings.kafka_bootstrap
        self.topic = settings.topic
        self.clock = clock
        self.by_partition: Counter[int] = Counter()
        self.failed: Counter[str] = Counter()
        self._down_since: float | None = None
        self.producer = Producer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "client.id": "vigil-produce",
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": settings.librdkafka_partitioner,
                "linger.ms": 25,  # fewer, fuller requests: at 5 ms they cost the broker 10 µs a message more
                "batch.size": 262_144,
                "queue.buffering.max.messages": 200_000,
                "message.timeout.ms": DELIVERY_S * 1000,
                "socket.connection.setup.timeout.ms": 5_000,
                "log_level": 3,  # errors; what it retries is no news
                "error_cb": self._on_error,
            },
            logger=_log,
        )

    def check_topic(self) -> None:
        """Raises DependencyDown within ANSWER_S, or BadConfiguration where the topic is missing."""
        try:
            topics = self.producer.list_topics(self.topic, timeout=ANSWER_S).topics
        except KafkaException as error:
            cause = f"no broker answers ({error.args[0].str()})"
            raise DependencyDown("kafka", self.address, cause, remedy="vigil up") from None
        if topics[self.topic].error is not None:
            raise BadConfiguration(f"Kafka at {self.address} has no topic {self.topic}", remedy="vigil up")

    def send(self, batch: list[ToSend]) -> None:
        produce, topic, confirmed = self.producer.produce, self.topic, self._on_delivery
        for value, key in batch:
            while True:
                try:
                    produce(topic, value=value, key=key, on_delivery=confirmed)
                    break
                except BufferError:  # the queue is full: let it drain
                    self.poll(0.1)
        self.poll(0)

    def send_labels(self, labels: list[ToSend]) -> None:
        """To their own topic; few, so that the queue takes them."""
        for value, key in labels:
            self.producer.produce(TOPIC, value=value, key=key, on_delivery=self._on_failure)
        self.poll(0)

    def poll(self, seconds: float) -> None:
        self.producer.poll(seconds)
        if self._down_since is not None and self.clock.monotonic() - self._down_since > DOWN_S:
            raise DependencyDown("kafka", self.address, f"no broker for {DOWN_S:.0f} s", remedy="vigil status")

    def finish(self) -> None:
        """Wait for every message. Raises DependencyDown where some were not delivered."""
        while len(self.producer):
            self.poll(0.1)
        if self.failed:
            reason, count = self.failed.most_common(1)[0]
            raise DependencyDown("kafka", self.address, f"{count} messages were not delivered: {reason}")

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            partition = message.partition()
            if partition is not None:  # a delivered message has one
                self.by_partition[partition] += 1
            self._down_since = None
        else:
            self.failed[error.str()] += 1

    def _on_failure(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failed[error.str()] += 1

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._down_since is None:
            self._down_since = self.clock.monotonic()


def produce(
    settings: Settings,
    payments: Iterator[pa.RecordBatch],
    *,
    rate: float | None = None,
    count: int | None = None,
    defects: Defects | None = None,
    labels: Sequence[Report] = (),
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Produced:
    """Send payments (SCHEMA batches, see sources) to the payments topic and wait until Kafka has them.

    `rate` is messages per second, as fast as possible without one; `count` limits payments, defects come on
    top. Of `labels`, earliest first, those go to topic labels whose time the newest payment sent has reached. `stop`
    ends it early, everything sent being delivered. `progress` is told the messages sent.
    Raises DependencyDown (within 10 s where no broker is there), BadConfiguration without the topic.
    """
    clock = clock or SystemClock()
    delivery = Delivery(settings, clock)
    delivery.check_topic()
    counts, pace, waiting = Counts(), Pace(rate, clock), deque(labels)
    stopped = False
    for batch in messages(_pieces(payments, count, pace.second), defects or Defects(), counts):
        while batch:
            due = pace.due(len(batch))
            delivery.send(batch[:due])
            batch = batch[due:]
            if progress:
                progress(pace.sent)
        delivery.send_labels(due_labels(waiting, counts.last_event_us or 0))
        stopped = stop is not None and stop.is_set()  # between batches, so that the counts are exact
        if stopped:
            break
    delivery.finish()
    return replace(_summed(counts, delivery, pace, stopped), labels=len(labels) - len(waiting))


def due_labels(waiting: deque[Report], until_us: int) -> list[ToSend]:
    """Labels learnt by then, taken off the front, as the contract of topic labels has them."""
    due: list[ToSend] = []
    while waiting and waiting[0].label_time <= until_us:
        time_us, name = waiting.popleft()
        label = {"transaction_id": name, "is_fraud": True, "label_time": _text(time_us), "source": SIMULATOR}
        due.append((json.dumps(label).encode(), name.encode()))
    return due


class Pace:
    """How many messages are due: `rate` a second from the first on, whatever happened before."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        if rate is not None and rate <= 0:
            raise BadConfiguration(f"the rate must be above 0, not {rate}")
        self.rate = rate
        self.clock = clock
        self.started: float | None = None  # when the first message was due
        self.sent = 0
        self._next_tick = 0.0

    @property
    def second(self) -> int:
        """Payments of about a second, the most that is prepared at once."""
        return LARGEST_BATCH if self.rate is None else max(1, min(LARGEST_BATCH, int(self.rate)))

    @property
    def behind_s(self) -> float:
        return 0.0 if self.rate is None else max(0.0, self.seconds - self.sent / self.rate)

    @property
    def seconds(self) -> float:
        """Since the first message was due."""
        return 0.0 if self.started is None else self.clock.monotonic() - self.started

    def due(self, waiting: int) -> int:
        """Sleeps until something is due; at most `waiting`, and no more than CATCH_UP times the rate."""
        count = min(waiting, LARGEST_STEP)
        if self.started is None:
            self.started = self._next_tick = self.clock.monotonic()
        if self.rate is not None:
            count = 0
            while count < 1:
                self.clock.sleep(max(0.0, self._next_tick - self.clock.monotonic()))
                self._next_tick = self.clock.monotonic() + TICK_S
                owed = int(self.seconds * self.rate) + 1 - self.sent
                count = min(owed, waiting, max(1, int(self.rate * TICK_S * CATCH_UP)))
        self.sent += count
        return count


def _pieces(payments: Iterator[pa.RecordBatch], count: int | None, rows: int) -> Iterator[pa.RecordBatch]:
    """At most `count` payments in batches of at most `rows`."""
    left = count
    for batch in payments:
        if left is not None:
            batch = batch.slice(0, left)
            left -= batch.num_rows
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)
        if left == 0:
            return


def _summed(counts: Counts, delivery: Delivery, pace: Pace, stopped: bool) -> Produced:
    seconds = max(pace.seconds, 1e-9)
    return Produced(
        payments=counts.payments,
        sent=pace.sent,
        delivered=sum(delivery.by_partition.values()),
        malformed=dict(sorted(counts.malformed.items())),
        duplicates=counts.duplicates,
        unkeyed=counts.unkeyed,
        late=counts.late,
        by_partition=dict(sorted(delivery.by_partition.items())),
        first_event=_text(counts.first_event_us),
        last_event=_text(counts.last_event_us),
        seconds=round(seconds, 3),
        per_second=round(pace.sent / seconds, 1),
        behind_s=round(pace.behind_s, 3),
        stopped=stopped,
    )


def _text(microseconds: int | None) -> str:
    """RFC 3339, empty for none."""
    if microseconds is None:
        return ""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
