"""What a payment's state costs with few users ever seen and with many, and with one user who pays all the time.

Load, fold and save as a task of the stream does them, on a Redis of its own; CPU time of both processes.
"""

import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import kernel, settings, state
from feature_repo.hashing import events_of, hash_texts
from feature_repo.snapshot import no_snapshot
from infra.local.stack import Stack
from pipelines.bench import usage
from pipelines.bench.kernel import BATCH, payments_of
from pipelines.bench.machine import Machine, describe
from streaming.states import StateStore

ACTIVE = 10_000  # users who pay, however many were ever seen
PARTITION, ATTEMPT = 0, "bench"
_FILLED = 50_000  # records written at once
_WARM_UP = 2  # batches before it counts


@dataclass(frozen=True)
class UsersBench:
    """Core-µs per payment, Redis included; `seen` users have a record."""

    payments: int
    active: int
    seen: tuple[int, int]
    us_state: tuple[float, float]
    us_fold: tuple[float, float]  # of that the kernel alone
    hot_payments: int  # of one single user
    us_hot: float
    us_hot_fold: float
    redis_gib: float  # at the end
    machine: Machine

    @property
    def ratio(self) -> float:
        return self.us_state[1] / self.us_state[0]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": round(self.ratio, 3)}


def bench_users(seen: int = 1_000_000, payments: int = 500_000, hot: int = 1_000_000) -> UsersBench:
    """Measure with as many users seen as are active, then with `seen`."""
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)  # Redis runs as another user when we are root
        stack = Stack(settings.load(home=home, ports="random"))
        try:
            url = stack.up(["redis"]).redis_url
            pid = next(service.pid for service in stack.status() if service.name == "redis") or 0
            with closing(StateStore(url)) as store:
                store.claim(PARTITION, ATTEMPT, untouched=True)
                _fill(store, 0, ACTIVE)
                few = _measure(store, pid, payments, ACTIVE)
                _fill(store, ACTIVE, seen)
                many = _measure(store, pid, payments, ACTIVE)
                one = _measure(store, pid, hot, 1)
                size = store.size().bytes
        finally:
            stack.down()
    return UsersBench(
        payments=payments,
        active=ACTIVE,
        seen=(ACTIVE, seen),
        us_state=(few[0], many[0]),
        us_fold=(few[1], many[1]),
        hot_payments=hot,
        us_hot=one[0],
        us_hot_fold=one[1],
        redis_gib=round(size / 2**30, 2),
        machine=describe(),
    )


def _fill(store: StateStore, first: int, until: int) -> None:
    """A record for each of these users."""
    for start in range(first, until, _FILLED):
        users = [f"user_{number}" for number in range(start, min(start + _FILLED, until))]
        states = state.empty(hash_texts(pa.array(users), "user_id"))
        store.save(PARTITION, ATTEMPT, users, states, 0)


def _measure(store: StateStore, redis_pid: int, payments: int, users: int) -> tuple[float, float]:
    """Core-µs per payment of load, fold and save together, and of the fold alone."""
    warm_up = _WARM_UP * BATCH
    batch = payments_of(payments + warm_up, users)
    events = events_of(batch, no_snapshot)
    total = folded = 0.0
    for start in range(0, payments + warm_up, BATCH):
        part = events.take(np.arange(start, min(start + BATCH, payments + warm_up)))
        ids = batch.column("user_id").slice(start, len(part.user))
        before = _cpu_s(redis_pid)
        hashes, first, slots = np.unique(part.user, return_index=True, return_inverse=True)
        names = ids.take(pa.array(first)).to_pylist()
        states = store.load(PARTITION, ATTEMPT, names, hashes)
        begun = time.process_time()
        kernel.fold(states, slots.astype(np.int64), part, -1, np.full(len(slots), -1))
        fold = time.process_time() - begun
        store.save(PARTITION, ATTEMPT, names, states, start)
        if start >= warm_up:
            total, folded = total + _cpu_s(redis_pid) - before, folded + fold
    return round(total / payments * 1e6, 2), round(folded / payments * 1e6, 2)


def _cpu_s(redis_pid: int) -> float:
    return time.process_time() + sum(part.cpu_s for part in usage.of_tree("redis", redis_pid).values())
