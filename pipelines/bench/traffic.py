"""The payments that the road is measured with: Zipf users with habits of their own, made as fast as they are sent.

As a program it is the load: it sends so many of them at a set rate, or as fast as it can, from a process of its own.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import settings as configuration
from feature_repo.hashing import partitions_of
from feature_repo.settings import Settings
from feature_repo.transaction import HISTORY_SCHEMA, SCHEMA
from pipelines.clock import SystemClock
from pipelines.messages import encode
from pipelines.produce import Pace
from streaming.documents import Message
from streaming.publish import Publisher

USERS = 200_000
MERCHANTS = 100_000
PER_DAY = 200_000  # payments of a day of event time, however quickly they are sent
DAY_US = 86_400_000_000
DEFECTS = ("malformed", "duplicate", "unkeyed", "late")
DEFECT = 0.005  # share of each: 2 % in all
BATCH = 16_384
ACKNOWLEDGED_S = 60.0
FRAUD = 0.002  # share of the history's payments that are somebody else's
_METHODS = ("credit_card", "debit_card", "wallet", "bank_transfer")


@dataclass(frozen=True)
class Traffic:
    """Payments number 0, 1, 2, …, the same for the same start; `start_us` is the event time of number 0."""

    start_us: int

    def batch(self, first: int, count: int) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_]]:
        """So many payments from number `first` on (SCHEMA), and which of them are fraud."""
        g = np.random.default_rng([7, first])
        user = _zipf(g, count, USERS)
        habit = (user * 2_654_435_761) % 2**32
        fraud = g.random(count) < FRAUD
        # each user goes to some ten shops, mostly to popular ones, and abroad only when it is somebody else
        shop = (habit + g.integers(0, 10, count) ** 2 * 7_919) % MERCHANTS
        shop = np.where(fraud, g.integers(0, MERCHANTS, count), shop)
        place = np.where(fraud, g.integers(0, 2_000, count), habit % 2_000)
        usual = np.exp(2.5 + (habit % 1_000) / 500)
        amount = np.round(usual * np.exp(g.normal(0, 0.6, count)) * np.where(fraud, 15, 1) + 0.01, 2)
        at = self.start_us + (first + np.arange(count)) * (DAY_US // PER_DAY)
        columns = {
            "transaction_id": _numbered("txn_", np.arange(first, first + count), 12),
            "user_id": _numbered("user_", user, 6),
            "amount": pa.array(np.minimum(amount, 99_999.0)),
            "event_time": pa.array(at, pa.timestamp("us", tz="UTC")),
            "merchant": _numbered("Merchant ", shop, 1),
            "location": _numbered("Place ", place, 1),
            "payment_method": pa.array(_METHODS).take(pa.array((habit + fraud) % len(_METHODS))),
        }
        return pa.RecordBatch.from_arrays(
            [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in SCHEMA],
            schema=SCHEMA,
        ), fraud

    def history(self, count: int) -> Iterator[pa.RecordBatch]:
        """The first so many payments with their labels, the frauds known a day later (HISTORY_SCHEMA)."""
        for first in range(0, count, BATCH):
            payments, fraud = self.batch(first, min(BATCH, count - first))
            at = payments.column("event_time").cast(pa.int64()).to_numpy()
            more = {
                "arrival_time": pa.array(at, pa.timestamp("us", tz="UTC")),
                "is_fraud": pa.array(fraud),
                "label_time": pa.array(at + DAY_US, pa.timestamp("us", tz="UTC"), mask=~fraud),
            }
            yield pa.RecordBatch.from_arrays(
                [
                    (payments.column(f.name) if f.name in SCHEMA.names else more[f.name]).cast(f.type)
                    for f in HISTORY_SCHEMA
                ],
                schema=HISTORY_SCHEMA,
            )


@dataclass(frozen=True)
class Sent:
    messages: int
    seconds: float
    behind_s: float  # how late the last was against its due time: above a second the rate was not held


def send(settings: Settings, traffic: Traffic, first: int, count: int, rate: float | None) -> Sent:
    """Send payments `first` to `first + count` with their defects; repeats come on top. Raises DependencyDown."""
    pace, began, sent = Pace(rate, SystemClock()), time.monotonic(), 0
    publisher = Publisher(settings.kafka_bootstrap, ACKNOWLEDGED_S)
    rows = BATCH if rate is None else max(64, min(BATCH, int(rate / 10)))
    for start in range(first, first + count, rows):
        messages = _messages(settings, traffic, start, min(rows, first + count - start))
        while messages:
            due = pace.due(len(messages))
            step, messages = messages[:due], messages[due:]
            for partition in range(settings.partitions):
                mine = [message for place, message in step if place == partition]
                publisher.send(settings.topic, partition, mine)
            sent += len(step)
    publisher.flush()
    return Sent(sent, time.monotonic() - began, pace.behind_s)


def _messages(settings: Settings, traffic: Traffic, first: int, count: int) -> list[tuple[int, Message]]:
    """Messages with the partition each goes to, defects among them."""
    payments, _ = traffic.batch(first, count)
    kind = np.random.default_rng([11, first]).random(count) // DEFECT
    late = kind == DEFECTS.index("late")
    at = payments.column("event_time").cast(pa.int64()).to_numpy() - late * DAY_US
    payments = payments.set_column(
        payments.schema.get_field_index("event_time"),
        "event_time",
        pa.array(at, payments.schema.field("event_time").type),
    )
    places = partitions_of(payments.column("user_id"), settings.partitions, murmur2=settings.murmur2).tolist()
    keys = payments.column("user_id").cast(pa.binary()).to_pylist()
    values = encode(payments).to_pylist()
    messages = [(place, Message(key=k, value=v)) for place, k, v in zip(places, keys, values, strict=True)]
    for row in np.flatnonzero(kind == DEFECTS.index("malformed")).tolist():
        messages[row][1]["value"] = values[row][:-9]
    for row in np.flatnonzero(kind == DEFECTS.index("unkeyed")).tolist():
        messages[row] = ((places[row] + 1) % settings.partitions, Message(value=values[row]))
    return messages + [messages[row] for row in np.flatnonzero(kind == DEFECTS.index("duplicate")).tolist()]


def _zipf(g: np.random.Generator, count: int, items: int) -> npt.NDArray[np.int64]:
    """Numbers 0 to `items`, number k with a probability in proportion to 1 / (k + 1)."""
    weights = np.cumsum(1 / np.arange(1, items + 1))
    return np.searchsorted(weights, g.random(count) * weights[-1])


def _numbered(name: str, numbers: npt.NDArray[np.int64], width: int) -> pa.StringArray:
    digits = pa.compute.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pa.compute.binary_join_element_wise(name, digits, "")


def main() -> None:
    options = argparse.ArgumentParser()
    for name in ("start", "first", "count"):
        options.add_argument(f"--{name}", type=int, required=True)
    options.add_argument("--rate", type=float)
    given = options.parse_args()
    sent = send(configuration.load(), Traffic(given.start), given.first, given.count, given.rate)
    print(json.dumps(sent.__dict__))


if __name__ == "__main__":
    main()
