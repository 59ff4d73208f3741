"""How long the feature kernel takes per payment, on one core, for users with a past."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import kernel, state
from feature_repo.features import WIDTH
from feature_repo.hashing import Events, events_of, hash_texts
from feature_repo.slots import Slots
from feature_repo.snapshot import COLUMNS, Snapshot
from feature_repo.transaction import SCHEMA
from pipelines.bench.machine import Machine, describe

BATCH = 25_000  # payments folded in one call: what a task of the stream takes of 100,000 in 4 partitions
SPAN_US = 60 * 24 * 3_600 * 1_000_000  # the payments lie within 60 days
_START_US = 1_700_000_000_000_000
_REPEATS = 5  # of each batch the quickest counts: what disturbs a run only ever makes it slower
_SINGLES = 200


@dataclass(frozen=True)
class KernelBench:
    """Microseconds of this core; `fold` and `hash` per payment, `seal` per user, `preview` per call."""

    payments: int
    users: int
    features: int
    past: int  # payments folded before the measurement
    us_fold: float
    us_hash: float  # contract columns to the kernel's hashes, merchants looked up in a snapshot (events_of)
    us_seal: float  # the checksum of a record, when it is loaded and again when it is saved
    us_preview: float  # one payment on a copy of its user's record, as /detect does
    warm_s: float  # until the compiled code was loaded, or compiled where it was not on disk
    machine: Machine

    @property
    def per_second(self) -> float:
        """Payments folded per second on one core."""
        return 1e6 / self.us_fold

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"fold_per_second": round(self.per_second)}


def bench_kernel(payments: int = 300_000, users: int = 20_000) -> KernelBench:
    """Fold as many payments again as the users have already made, batch by batch."""
    batch = payments_of(2 * payments, users)
    begun = time.perf_counter()
    merchants = _merchants(batch).look_up
    events = events_of(batch, merchants)
    slots, first = Slots().place(events.user)
    states = state.empty(events.user[first])
    kernel.fold(states, *_taken(slots, events, np.arange(payments)))
    warm_s = time.perf_counter() - begun
    fold_s = hash_s = 0.0
    for start in range(payments, 2 * payments, BATCH):
        rows = np.arange(start, min(start + BATCH, 2 * payments))
        part, taken, before = batch.slice(start, len(rows)), _taken(slots, events, rows), states.copy()
        hash_s += min(_cpu_s(events_of, part, merchants) for _ in range(_REPEATS))
        tries = []
        for _ in range(_REPEATS):
            states[:] = before
            tries.append(_cpu_s(kernel.fold, states, *taken))
        fold_s += min(tries)
    one, its = events.take(np.array([0])), states[slots[:1]]
    return KernelBench(
        payments=payments,
        users=len(states),
        features=WIDTH,
        past=payments,
        us_fold=round(fold_s / payments * 1e6, 3),
        us_hash=round(hash_s / payments * 1e6, 3),
        us_seal=round(min(_cpu_s(state.seal, states) for _ in range(_REPEATS)) / len(states) * 1e6, 3),
        us_preview=round(float(np.median([_cpu_s(kernel.preview, its, one) for _ in range(_SINGLES)])) * 1e6, 1),
        warm_s=round(warm_s, 2),
        machine=describe(),
    )


def _taken(slots: Any, events: Events, rows: Any) -> tuple[Any, ...]:
    """What `fold` takes after the states, of some payments."""
    return slots[rows], events.take(rows), -1, np.full(len(rows), -1)


def _merchants(payments: pa.RecordBatch) -> Snapshot:
    """A snapshot that knows every merchant of the payments."""
    hashes = np.unique(hash_texts(payments.column("merchant"), "merchant"))
    return Snapshot(_START_US, hashes, np.ones((len(hashes), len(COLUMNS)), np.float32))


def _cpu_s(work: Callable[..., object], *arguments: object) -> float:
    """Seconds of this thread's processor time, which waiting for the core does not add to."""
    begun = time.thread_time()
    work(*arguments)
    return time.thread_time() - begun


def payments_of(rows: int, users: int, seed: int = 1) -> pa.RecordBatch:
    """Payments of users picked at random, a few merchants and places each, in order of time."""
    g = np.random.default_rng(seed)
    user = g.integers(0, users, rows)
    columns = {
        "transaction_id": [f"txn_{row:012d}" for row in range(rows)],
        "user_id": [f"user_{number}" for number in user],
        "amount": np.round(g.lognormal(3.5, 1.2, rows) + 0.01, 2),
        "event_time": _START_US + np.sort(g.integers(0, SPAN_US, rows)),
        "merchant": [f"Merchant {number}" for number in (7 * user + g.integers(0, 12, rows)) % 5_000],
        "location": [f"Place {number}" for number in (3 * user + g.integers(0, 3, rows)) % 400],
        "payment_method": np.array(["credit_card", "debit_card", "wallet"])[g.integers(0, 3, rows)],
        "device_id": [f"device_{number}" for number in 2 * user + g.integers(0, 2, rows)],
        "latitude": np.round(g.normal(45, 2, rows), 6),
        "longitude": np.round(g.normal(9, 2, rows), 6),
    }
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[field.name]).cast(field.type) if field.name in columns else pa.nulls(rows, field.type)
            for field in SCHEMA
        ],
        schema=SCHEMA,
    )
