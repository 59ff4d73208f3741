"""A world's payments, day by day in order of arrival: ids, labels, text columns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from feature_repo.transaction import HISTORY_SCHEMA
from pipelines.simulator import fraud, genuine, people, places
from pipelines.simulator.draws import Purpose, generator, scrambled, tagged_hex
from pipelines.simulator.merchants import NAMES as CATEGORY_NAMES
from pipelines.simulator.world import DAY_US, HOUR_US, Rows, World

REPORT_MEDIAN_DAYS = 7.0
REPORT_SIGMA = 0.75  # of log days; two in a thousand reports would come after the longest delay
REPORT_LONGEST_DAYS = 60.0
LATEST_US = 12 * HOUR_US  # a payment arrives at most this long after it happened
WARM_UP_DAYS = 5  # what starts earlier has ended by the day before: fraud.LONGEST_US and LATEST_US together

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("mechanism", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # what an analyst should read first
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # every code that is true, the first included
    ]
)


@dataclass(frozen=True)
class Day:
    """Payments that arrive in one day, in order of arrival."""

    day: int
    rows: Rows
    arrival: np.ndarray  # int64[n], microseconds since 1970
    reported: np.ndarray  # int64[n], when somebody reports it as fraud, 0 for never
    before: Rows  # what arrived the day before


def stream(world: World, first_day: int, days: int) -> Iterator[Day]:
    """Days `first_day` to `first_day + days - 1`. Where a stream starts does not change what it holds."""
    waiting: list[tuple[Rows, np.ndarray]] = []
    before: Rows | None = None
    for day in range(max(0, first_day - WARM_UP_DAYS), first_day + days):
        rows = _happening(world, day)
        waiting.append((rows, _arrivals(world, day, rows)))
        now, waiting = _split(waiting, world.midnight_us(day + 1))
        if day >= first_day:
            yield _in_order(world, day, *now, before or now[0].take(np.zeros(0, np.int64)))
        before = now[0]


def _happening(world: World, day: int) -> Rows:
    """All that starts that day, genuine or not; fraud may go on into the next days."""
    ordinary = genuine.day_of_payments(world, day)
    rng = generator(world.seed, Purpose.FRAUD, day + 1_000_000)  # beside the one fraud.day_of_payments uses
    marked = fraud.compromised(world, day, ordinary, rng)
    return Rows.joined([replace(ordinary, mechanism=marked), fraud.day_of_payments(world, day, ordinary)])


def _arrivals(world: World, day: int, rows: Rows) -> np.ndarray:
    """int64[n]: half a second after the event; a few minutes or hours later (a till without a line)."""
    rng = generator(world.seed, Purpose.ARRIVAL, day)
    delay = rng.exponential(500_000.0, len(rows))
    late = rng.random(len(rows)) < world.options.arriving_late
    delay += np.where(late, rng.lognormal(np.log(20 * 60e6), 1.2, len(rows)), 0.0)
    return rows.time + np.clip(delay, 1_000, LATEST_US).astype(np.int64)


def _split(
    waiting: list[tuple[Rows, np.ndarray]], until_us: int
) -> tuple[tuple[Rows, np.ndarray], list[tuple[Rows, np.ndarray]]]:
    """What has arrived before `until_us`, in order of arrival, and what has not."""
    rows = Rows.joined([part for part, _ in waiting])
    arrival = np.concatenate([part for _, part in waiting])
    later = np.flatnonzero(arrival >= until_us)
    # The order holds for any start: time, then content, never the order of generation (fraud comes last there).
    now = np.flatnonzero(arrival < until_us)
    now = now[np.lexsort((rows.cents[now], rows.merchant[now], rows.user[now], arrival[now]))]
    return (rows.take(now), arrival[now]), [(rows.take(later), arrival[later])]


def _in_order(world: World, day: int, rows: Rows, arrival: np.ndarray, before: Rows) -> Day:
    rng = generator(world.seed, Purpose.LABELS, day)
    delay = np.minimum(rng.lognormal(np.log(REPORT_MEDIAN_DAYS), REPORT_SIGMA, len(rows)), REPORT_LONGEST_DAYS)
    chance = rng.random(len(rows))
    is_reported = np.where(
        rows.mechanism > 0, chance >= world.options.never_reported, chance < world.options.false_claims
    )
    reported = np.where(is_reported, arrival + (delay * DAY_US).astype(np.int64), 0)
    return Day(day, rows, arrival, reported, before)


def transaction_ids(world: World, day: Day) -> pa.StringArray:
    """Ids from the place in the order of arrival, scrambled: unique, and saying nothing."""
    numbers = (np.uint64(day.day) << np.uint64(24)) + np.arange(len(day.rows), dtype=np.uint64)
    return _fixed_width(tagged_hex("tx_", scrambled(numbers, world.seed)))


def history(world: World, day: Day) -> pa.RecordBatch:
    """HISTORY_SCHEMA. `is_fraud` is what was reported, with its `label_time`; unreported is false without one."""
    rows, market = day.rows, world.merchants
    reported = day.reported > 0
    columns = {
        "transaction_id": transaction_ids(world, day),
        "user_id": _numbered("user_", rows.user, 6 if len(world.people) <= 1_000_000 else 8),
        "amount": pa.array(rows.cents / 100.0),
        "event_time": _times(rows.time),
        "merchant": _text(rows.merchant, market.name),
        "location": _text(rows.city, places.NAMES),
        "payment_method": _text(rows.method, people.METHODS),
        "currency": _text(np.zeros(len(rows), np.int8), ["USD"]),
        "merchant_category": _text(market.category[rows.merchant], CATEGORY_NAMES),
        "channel": _text(market.online[rows.merchant].astype(np.int8), ["in_store", "online"]),
        "device_id": _devices(world, rows.device),
        "latitude": pa.array(rows.latitude),
        "longitude": pa.array(rows.longitude),
        "arrival_time": _times(day.arrival),
        "is_fraud": pa.array(reported),
        "label_time": _times(day.reported, missing=~reported),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in HISTORY_SCHEMA.names], schema=HISTORY_SCHEMA)


def truth(world: World, day: Day) -> pa.RecordBatch:
    """TRUTH_SCHEMA: one row per fraudulent payment, reported or not."""
    chosen = np.flatnonzero(day.rows.mechanism > 0)
    frauds = day.rows.take(chosen)
    reasons = fraud.true_reasons(world, frauds, Rows.joined([day.before, day.rows]))
    columns = [
        transaction_ids(world, day).take(pa.array(chosen)),
        _text(frauds.mechanism, list(fraud.MECHANISM_NAMES)),
        pa.array([codes[0] for codes in reasons], pa.string()),
        pa.array(reasons, pa.list_(pa.string())),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TRUTH_SCHEMA)


def _times(microseconds: np.ndarray, missing: np.ndarray | None = None) -> pa.TimestampArray:
    return pa.array(microseconds, mask=missing).cast(pa.timestamp("us", tz="UTC"))


def _text(codes: np.ndarray, values: list[str]) -> pa.StringArray:
    return pa.array(values, pa.string()).take(pa.array(codes))


def _fixed_width(text: np.ndarray) -> pa.StringArray:
    """uint8[n, w] of ASCII as strings, without a Python object per row."""
    count, width = text.shape
    offsets = pa.py_buffer((np.arange(count + 1) * width).astype(np.int32))
    return pa.StringArray.from_buffers(count, offsets, pa.py_buffer(np.ascontiguousarray(text)))


def _numbered(tag: str, numbers: np.ndarray, digits: int) -> pa.StringArray:
    powers = 10 ** np.arange(digits - 1, -1, -1)
    text = np.empty((len(numbers), len(tag) + digits), dtype=np.uint8)
    text[:, : len(tag)] = np.frombuffer(tag.encode(), dtype=np.uint8)
    text[:, len(tag) :] = numbers[:, None] // powers[None, :] % 10 + ord("0")
    return _fixed_width(text)


def _devices(world: World, device: np.ndarray) -> pa.StringArray:
    text = _fixed_width(tagged_hex("dev_", scrambled(device.clip(0), world.seed + 1)))
    return pa.compute.if_else(pa.array(device >= 0), text, pa.scalar(None, pa.string()))
