"""A topic of a test's own on the real Kafka, decided by the nine steps into the real PostgreSQL, in this process.

User states stay in memory unless a store is given, published messages do; Spark and the model service are not
needed for what a decision row holds.
"""

import json
import uuid
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from feature_repo.hashing import partitions_of
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot
from pipelines.road import log_ends
from streaming.ledger import Ledger
from streaming.offsets import OffsetRange
from streaming.partition import Road, Taken
from streaming.reader import Reader
from streaming.scoring import Pin, Pins
from streaming.states import StateStore
from tests.unit.road_fakes import PIN, FakeChallenger, FakePublisher, FakeStates, score_by_amount

PARTITIONS = 2


class Stream:
    """Payments in by `send`, decided by `decide`."""

    def __init__(self, stack: Settings, states: FakeStates | StateStore | None = None) -> None:
        name = f"payments-{uuid.uuid4().hex[:8]}"
        self.admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
        self.admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
        self.states = FakeStates() if states is None else states
        self.ledger = Ledger(stack.postgres_dsn, name)
        self.published = FakePublisher()
        self.place_by(stack.model_copy(update={"topic": name, "partitions": PARTITIONS}))

    def place_by(self, settings: Settings) -> None:
        """Go on with these settings, as a stream that was started anew."""
        self.settings = settings
        self.reader = Reader(settings)
        self.road = Road(
            settings,
            self.ledger,
            self.states,  # type: ignore[arg-type]  # the fakes have the same methods
            self.published,  # type: ignore[arg-type]
            score_by_amount,
            FakeChallenger(),
        )

    def send(self, payments: list[dict[str, Any]], partitions: int | None = None) -> None:
        """In this order, each to its user's partition; `partitions` are those a producer knows of."""
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
        belongs = partitions_of(pa.array([one["user_id"] for one in payments]), partitions or self.settings.partitions)
        for one, partition in zip(payments, belongs.tolist(), strict=True):
            producer.produce(self.settings.topic, json.dumps(one), partition=partition)
        assert producer.flush(30) == 0

    def starts(self) -> dict[int, int]:
        """Where the stream goes on, by partition."""
        return self.ledger.positions()

    def decide(self, merchants: Snapshot | None = None, pin: Pin | None = PIN, pins: Pins | None = None) -> list[Taken]:
        """Everything not decided yet, a range per partition; under `pins`, or under `pin` alone."""
        done = self.starts()
        ends = log_ends(self.settings, self.settings.topic)
        taken = []
        for partition, end in ends.items():
            first = done.get(partition, 0)
            if first < end:
                (records,) = self.reader.read(OffsetRange(partition, first, end))
                taken.append(self.road.take(records, pins or Pins(pin), frozenset(), merchants))
        return taken
