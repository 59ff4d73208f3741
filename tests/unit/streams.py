"""Streams of payments for the kernel's tests: drawn by Hypothesis when short, by numpy when long."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import strategies as st

from feature_repo import kernel
from feature_repo.hashing import Events, events_of, hash_texts
from feature_repo.snapshot import MerchantLookup, Snapshot
from feature_repo.state import DAY, HOUR, States, empty
from feature_repo.transaction import SCHEMA
from tests.unit.oracle import MINUTE, SECOND, MerchantStats, Payment

USERS = ("ada", "bob", "ümit")
MERCHANTS = tuple(f"merchant {i}" for i in range(8))
PLACES = tuple(f"place {i}" for i in range(6))
METHODS = ("card", "wallet", "transfer")
DEVICES = (None, "phone", "laptop", "watch")
SPOTS = ((None, None), (52.52, 13.405), (52.53, 13.41), (-33.8688, 151.2093), (90.0, 0.0), (0.0, -180.0))
AMOUNTS = (0.0001, 0.01, 1.0, 5.0, 9.99, 10.0, 50.0, 99.9999, 1_000.0, 123_456.78, 1e12)
# What the snapshot of these tests says: payments of 7 and 30 days, excess risk of 7 and 30 days.
KNOWN: dict[str, MerchantStats] = {
    "merchant 1": (12.0, 640.0, 0.0, 0.0),
    "merchant 2": (0.0, 3.0, 0.815, 0.272),
    "merchant 3": (1e6, 4e6, -0.0125, -0.005),
    "merchant 5": (0.0, 0.0, 0.0, 0.025),
    "somewhere else": (7.0, 7.0, 0.7, 0.7),
}
STEPS = (
    0, 1, SECOND, 30 * SECOND, MINUTE, 10 * MINUTE, HOUR - 1, HOUR, 5 * HOUR, DAY, 6 * DAY, 7 * DAY, 29 * DAY,
    30 * DAY, 30 * DAY + 1, 45 * DAY,
    -1, -SECOND, -MINUTE, -HOUR, -DAY, -8 * DAY, -40 * DAY,
)  # fmt: skip


def snapshot_of(known: dict[str, MerchantStats], effective_at: int = 0) -> Snapshot:
    hashes = hash_texts(pa.array(list(known), pa.string()), "merchant")
    order = np.argsort(hashes)
    return Snapshot(effective_at, hashes[order], np.array(list(known.values()), np.float32).reshape(-1, 4)[order])


SNAPSHOT = snapshot_of(KNOWN)
FIRST = 10 * 365 * DAY  # 1979: steps back stay after 1970
LAST = 130 * 365 * DAY  # 2099


@st.composite
def streams(draw: st.DrawFn) -> list[Payment]:
    """Up to 25 payments of up to three users, with repeats, conflicts, ties, late ones and silences."""
    clock = draw(st.integers(FIRST, LAST))
    payments: list[Payment] = []
    for i in range(draw(st.integers(1, 25))):
        clock = max(0, clock + draw(st.sampled_from(STEPS)))
        again = draw(st.integers(0, 9))
        if payments and again < 2:
            earlier = draw(st.sampled_from(payments))
            payments.append(earlier if again else replace(earlier, merchant=draw(st.sampled_from(MERCHANTS))))
            continue
        latitude, longitude = draw(st.sampled_from(SPOTS))
        payments.append(
            Payment(
                id=f"t{i}",
                user=draw(st.sampled_from(USERS)),
                time=clock,
                amount=draw(st.sampled_from(AMOUNTS)),
                merchant=draw(st.sampled_from(MERCHANTS)),
                place=draw(st.sampled_from(PLACES)),
                method=draw(st.sampled_from(METHODS)),
                device=draw(st.sampled_from(DEVICES)),
                latitude=latitude,
                longitude=longitude,
            )
        )
    return payments


def long_stream(seed: int, size: int = 400, pace: int = 5 * MINUTE) -> list[Payment]:
    """Hundreds of payments at about one per `pace`: windows overflow the ring, tiles wrap around."""
    g = np.random.default_rng(seed)
    clock = int(g.integers(FIRST, LAST))
    payments: list[Payment] = []
    for i in range(size):
        kind = g.random()
        clock += int(g.exponential(pace))
        if kind < 0.01:
            clock += int(g.integers(1, 40)) * DAY
        if payments and 0.01 < kind < 0.08:
            earlier = payments[-int(g.integers(1, min(len(payments), 60) + 1))]
            payments.append(earlier if kind < 0.05 else replace(earlier, amount=earlier.amount + 1))
            continue
        late = int(g.exponential(2 * HOUR)) if kind > 0.9 else 0
        late = int(g.integers(0, 40)) * DAY if kind > 0.98 else late
        latitude, longitude = SPOTS[g.integers(len(SPOTS))]
        payments.append(
            Payment(
                id=f"t{i}",
                user=USERS[int(g.integers(4)) % 3],
                time=clock - late,
                amount=round(float(np.exp(g.normal(3, 1.5))), 4) if g.random() < 0.9 else float(g.choice(AMOUNTS)),
                merchant=MERCHANTS[g.integers(len(MERCHANTS))],
                place=PLACES[g.integers(len(PLACES))],
                method=METHODS[g.integers(len(METHODS))],
                device=DEVICES[g.integers(len(DEVICES))],
                latitude=latitude,
                longitude=longitude,
            )
        )
    return payments


def batch_of(payments: list[Payment]) -> pa.RecordBatch:
    """Payments as the contract's columns."""
    columns = {
        "transaction_id": [p.id for p in payments],
        "user_id": [p.user for p in payments],
        "amount": [p.amount for p in payments],
        "merchant": [p.merchant for p in payments],
        "location": [p.place for p in payments],
        "payment_method": [p.method for p in payments],
        "device_id": [p.device for p in payments],
        "latitude": [p.latitude for p in payments],
        "longitude": [p.longitude for p in payments],
    }
    times = pa.array([p.time for p in payments], pa.int64())
    return pa.RecordBatch.from_arrays(
        [
            times.cast(field.type)
            if field.name == "event_time"
            else pa.array(columns.get(field.name, [None] * len(payments)), field.type)
            for field in SCHEMA
        ],
        schema=SCHEMA,
    )


class Log:
    """A stream as one Kafka partition holds it: its events, and fresh states of its users to fold into."""

    def __init__(self, payments: list[Payment], merchants: MerchantLookup = SNAPSHOT.look_up) -> None:
        self.payments = payments
        self.events: Events = events_of(batch_of(payments), merchants)
        users, slots = np.unique(self.events.user, return_inverse=True)
        self.slots = slots.astype(np.int64)
        self.states: States = empty(users)
        self.offsets = 100 + 3 * np.arange(len(payments))  # Kafka's offsets have gaps

    def fold(self, start: int = 0, stop: int | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Fold a range of the log into `states`, as the stream does."""
        rows = np.arange(len(self.payments))[start:stop]
        return kernel.fold(self.states, self.slots[rows], self.events.take(rows), 2, self.offsets[rows])
