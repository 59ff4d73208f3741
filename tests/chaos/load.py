"""Producers as they are met in the wild, all at once, which note what Kafka confirmed and what must become of it."""

import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from feature_repo.settings import Settings

Place = tuple[int, int]  # partition, offset

USERS = 2_000
TICK_S = 0.05
TRANSACTION_EVERY_S, TRANSACTION_PAYMENTS = 2.0, 12
LONGEST_S = 2.0  # that was slept through is made up for: a longer halt is no reason for a flood
FLUSHED_S = 30
GIVE_UP_S = 300  # longer than any outage here: what librdkafka gives up is lost to the producer, not to us
# Test numbers of three card schemes, spelled as people do.
CANARIES = ("4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005")


class Kind(StrEnum):
    """What a record is, by what must become of it."""

    GOOD = "good"
    STRANGER = "stranger"  # keyed, by librdkafka's own partitioner
    UNKEYED = "unkeyed"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    LATE = "late"  # an hour to a year
    FUTURE = "future"  # stamped 2099
    BROKEN = "broken"
    CARD = "card"  # a card number where the contract has a text
    BROKEN_CARD = "broken card"  # no JSON, and a card number in it
    COMMITTED = "committed"  # by a transaction
    ABORTED = "aborted"


SHARES = {
    Kind.GOOD: 60, Kind.STRANGER: 10, Kind.UNKEYED: 8, Kind.DUPLICATE: 6, Kind.CONFLICT: 3, Kind.LATE: 6,
    Kind.FUTURE: 2, Kind.BROKEN: 2, Kind.CARD: 2, Kind.BROKEN_CARD: 1,
}  # fmt: skip


class Load:
    """For a `with` block; `stop` waits until Kafka has everything. `sent` is what it confirmed, `loose` those of them
    that were sent while users were moving to other partitions."""

    def __init__(self, settings: Settings, rate: float, seed: int) -> None:
        self.sent: dict[Place, Kind] = {}
        self.failed: Counter[str] = Counter()
        self.loose: set[Place] = set()
        self._settings = settings
        self._rate = rate
        self._times = 1.0
        self._unsettled = False
        self._renewals = 0
        self._random = random.Random(seed)
        self._tag = f"{seed:x}"
        self._numbers = iter(range(10**9))
        self._held = threading.Lock()  # while the producers are used, and while they are replaced
        self._recent: deque[dict[str, Any]] = deque(maxlen=20)
        self._ours, self._strangers = self._producers()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._stream, self._transact)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Ends with what any partition may end with, a transaction's marker included."""
        self.__exit__()
        for producer in (self._ours, self._strangers):
            assert producer.flush(GIVE_UP_S) == 0, "Kafka did not take everything"

    @contextmanager
    def faster(self, times: float) -> Iterator[None]:
        self._times = times
        try:
            yield
        finally:
            self._times = 1.0

    @contextmanager
    def unsettled(self) -> Iterator[None]:
        """While users move, a payment may be put in its place, and come there after a later one: nothing is sent twice
        meanwhile, and nothing of before is sent again later."""
        self._unsettled = True
        try:
            yield
        finally:
            self.renew()
            self._unsettled = False

    def renew(self) -> None:
        """Producers that know the partitions there are now."""
        with self._held:
            for producer in (self._ours, self._strangers):
                producer.flush(FLUSHED_S)
            self._ours, self._strangers = self._producers()
            self._recent.clear()
            self._renewals += 1

    def _producers(self) -> tuple[Producer, Producer]:
        return self._producer(partitioner="murmur2_random"), self._producer()

    def _producer(self, **options: Any) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._settings.kafka_bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 20,
                "message.timeout.ms": GIVE_UP_S * 1000,
                "log_level": 0,
                **options,
            }
        )

    # ---- a stream of everything -------------------------------------------------------------

    def _stream(self) -> None:
        due, last = 0.0, time.monotonic()
        while not self._stop.wait(TICK_S):
            now = time.monotonic()
            due += min(now - last, LONGEST_S) * self._rate * self._times
            last = now
            with self._held:
                for _ in range(int(due)):
                    self._send(self._random.choices(list(SHARES), list(SHARES.values()))[0])
                self._ours.poll(0)
                self._strangers.poll(0)
            due -= int(due)

    def _send(self, kind: Kind) -> None:
        producer = self._strangers if kind in (Kind.STRANGER, Kind.UNKEYED) else self._ours
        payment = self._payment()
        if kind in (Kind.DUPLICATE, Kind.CONFLICT):
            if not self._recent or self._unsettled:
                return
            payment = dict(self._random.choice(self._recent))
        if kind is Kind.CONFLICT:
            payment["amount"] = round(payment["amount"] + 1, 2)
        if kind is Kind.LATE:
            late = timedelta(seconds=self._random.choice([3_600, 86_400, 366 * 86_400]))
            payment["timestamp"] = (datetime.now(UTC) - late).isoformat()
        if kind is Kind.FUTURE:
            payment["timestamp"] = "2099-01-01T00:00:00Z"
        if kind is Kind.CARD:
            payment["merchant"] = f"Shop {self._random.choice(CANARIES)}"
        if kind is Kind.GOOD and not self._unsettled:
            self._recent.append(payment)
        elif kind not in (Kind.GOOD, Kind.DUPLICATE) and self._random.random() < 0.1:
            payment = payment | {"note": self._random.choice(CANARIES)}  # in a field outside the contract
        value = json.dumps(payment)
        if kind in (Kind.BROKEN, Kind.BROKEN_CARD):
            value = value[:-1]
        if kind is Kind.BROKEN_CARD:
            value = f'{{"card": "{self._random.choice(CANARIES)}", {value}'
        self._produce(producer, value, None if kind is Kind.UNKEYED else payment["user_id"], partial(self._note, kind))

    def _payment(self) -> dict[str, Any]:
        chance = self._random
        return {
            "transaction_id": f"chaos-{self._tag}-{next(self._numbers)}",
            "user_id": f"chaos_{chance.randrange(USERS)}",
            "amount": round(min(chance.lognormvariate(3, 1), 9_999) + 0.01, 2),
            "timestamp": datetime.now(UTC).isoformat(),
            "merchant": f"Shop {chance.randrange(200)}",
            "location": chance.choice(["New York", "São Paulo", "Nairobi"]),
            "payment_method": chance.choice(["credit_card", "debit_card"]),
        }

    def _produce(
        self, producer: Producer, value: str, key: str | None, told: Callable[[KafkaError | None, Message], None]
    ) -> None:
        while not self._stop.is_set():  # a queue that stays full must not keep a run from its end
            try:
                producer.produce(self._settings.topic, value.encode(), key, on_delivery=told)
                return
            except BufferError:
                producer.poll(0.1)

    def _note(self, kind: Kind, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            self.failed[str(error)] += 1
        else:
            self.sent[(partition, offset)] = kind
            if self._unsettled:
                self.loose.add((partition, offset))

    # ---- transactions -----------------------------------------------------------------------

    def _transact(self) -> None:
        """One after the other, half of them aborted. What became of one that broke off nobody knows: not noted."""
        producer: Producer | None = None
        renewals = 0
        while not self._stop.wait(TRANSACTION_EVERY_S):
            try:
                if producer is None or renewals != self._renewals:
                    renewals = self._renewals
                    producer = self._producer(
                        partitioner="murmur2_random",
                        **{"transactional.id": f"chaos-{self._tag}", "message.timeout.ms": 30_000,
                           "transaction.timeout.ms": 30_000},
                    )  # fmt: skip
                    producer.init_transactions(30)
                self._transaction(producer)
            except KafkaException:
                producer = None

    def _transaction(self, producer: Producer) -> None:
        places: list[Place] = []
        unsettled = self._unsettled

        def note(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                places.append((partition, offset))

        producer.begin_transaction()
        for _ in range(TRANSACTION_PAYMENTS):
            payment = self._payment()
            self._produce(producer, json.dumps(payment), payment["user_id"], note)
        producer.flush(30)
        if self._random.random() < 0.5:
            producer.abort_transaction(30)
            self.sent.update(dict.fromkeys(places, Kind.ABORTED))
        else:
            producer.commit_transaction(30)
            self.sent.update(dict.fromkeys(places, Kind.COMMITTED))
            if unsettled or self._unsettled:
                self.loose.update(places)
