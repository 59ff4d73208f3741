"""`vigil bench api`: the query service over a table and an index of a size, on a stack of its own.

The stack is the production one, with a promoted model; what only the stream needs is stopped once it is there. Costs
are CPU time of the process trees of API and PostgreSQL, so the client, which shares the machine, is not among them.
"""

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from infra.local.stack import Stack
from pipelines.bench import load, machine, stored, usage
from pipelines.bench.load import Load, Request
from pipelines.demo import Demo, Scale
from streaming import reindex

SCALE = Scale(users=2_000, history_days=14)
NOT_NEEDED = ("stream", "windows", "indexer", "lifecycle")
CONNECTIONS = 8
DETECT_RATE = 200.0
DETECT_CONNECTIONS = 32  # more than are ever waiting
WARM_UP_S = 3.0
SEARCH_WARM_UP_S = 30.0  # until then Elasticsearch's JVM interprets and compiles more than it searches
PAGE = 50

Say = Callable[[str], None]


@dataclass(frozen=True)
class ApiBench:
    """Latencies in milliseconds."""

    rows: int
    users: int
    days: int
    documents: int
    list_per_core: float  # requests per second and core of API and PostgreSQL together
    list_core_us: dict[str, float]  # per request
    list_load: Load
    detect_rate: float
    detect: Load
    search: Load
    machine: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_api(rows: int, documents: int, seconds: float, say: Say = lambda _: None) -> ApiBench:
    """Bring up a road in a temporary home, fill it, ask it, and tear it down again.

    Raises BadConfiguration where the disk has no room for so many rows.
    """
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)  # PostgreSQL and Elasticsearch run as another user when we are root
        _check_disk(home, rows)
        stack = Stack(configuration.load(home=home, ports="random"))
        try:
            Demo(stack, SCALE, lambda step, what: say(step or what)).prepare()
            for name in NOT_NEEDED:
                stack.stop(name)
            _fill(stack.settings, rows, min(documents, rows), say)
            return measure(stack, rows, min(documents, rows), seconds, say)
        finally:
            stack.down()


def measure(stack: Stack, rows: int, documents: int, seconds: float, say: Say) -> ApiBench:
    """Ask a stack that is up and filled."""
    url = stack.settings.api_url
    pids = {
        service.name: service.pid for service in stack.status() if service.name in ("api", "postgres") and service.pid
    }
    say("the last payments of users")
    load.closed(url, _lists(rows, 1), CONNECTIONS, WARM_UP_S)
    before = usage.of_services(pids)
    listed = load.closed(url, _lists(rows, 2), CONNECTIONS, seconds)
    spent = usage.spent(before, usage.of_services(pids))
    say("decisions on one payment")
    load.at_rate(url, _detections(3), DETECT_RATE, DETECT_CONNECTIONS, WARM_UP_S)
    detected = load.at_rate(url, _detections(4), DETECT_RATE, DETECT_CONNECTIONS, seconds)
    say("searches")
    load.closed(url, _searches(5), 2, SEARCH_WARM_UP_S)
    searched = load.closed(url, _searches(6), 2, seconds)
    return ApiBench(
        rows=rows,
        users=stored.users(rows),
        days=stored.DAYS,
        documents=documents,
        list_per_core=listed.requests / sum(spent.values()),
        list_core_us={name: cpu / listed.requests * 1e6 for name, cpu in spent.items()},
        list_load=listed,
        detect_rate=DETECT_RATE,
        detect=detected,
        search=searched,
        machine=machine.describe().as_dict(),
    )


def _fill(settings: Settings, rows: int, documents: int, say: Say) -> None:
    """The first `documents` rows also go into the index."""

    def told(done: int) -> None:
        say(f"{done:,} rows")

    stored.fill(settings, 0, documents, rows, told)
    reindex.run(settings, threading.Event(), lambda done: say(f"{done:,} documents"))
    stored.fill(settings, documents, rows, rows, told)
    say("vacuum")
    stored.settle(settings)


def _check_disk(home: Path, rows: int) -> None:
    needed = rows * stored.BYTES_PER_ROW + stored.WRITE_AHEAD_BYTES
    free = shutil.disk_usage(home).free
    if free < needed:
        raise BadConfiguration(
            f"{rows:,} rows need {needed / 2**30:.0f} GiB of disk, {free / 2**30:.0f} are free", remedy="fewer --rows"
        )


def _lists(rows: int, seed: int) -> Iterator[Request]:
    random, people = np.random.default_rng(seed), stored.users(rows)
    while True:
        yield "GET", f"/transactions?user_id={stored.user(int(random.integers(people)))}&limit={PAGE}", b""


def _detections(seed: int) -> Iterator[Request]:
    """Of people the feature store knows."""
    random, number = np.random.default_rng(seed), 0
    while True:
        number += 1
        payment = {
            "transaction_id": f"detect-{seed}-{number}",
            "user_id": f"user_{random.integers(SCALE.users):06d}",
            "amount": round(float(random.lognormal(3.5, 1.2)) + 0.01, 2),
            "timestamp": datetime.now(UTC).isoformat(),
            "merchant": str(random.choice(stored.MERCHANTS)),
            "location": str(random.choice(stored.PLACES)),
            "payment_method": str(random.choice(stored.METHODS)),
        }
        yield "POST", "/detect", json.dumps(payment).encode()


def _searches(seed: int) -> Iterator[Request]:
    """Words, a phrase, a beginning, a typing error, filters and facets, in turn."""
    random = np.random.default_rng(seed)
    kinds = (
        "q={kind}+{place}", "q=%22{name}+{kind}%22", "q={start}*&is_anomaly=true", "q={kind}x+{name}",
        "q=location:%22{place}%22+{name}&min_amount=100&facets=true",
    )  # fmt: skip
    for at in range(10**9):
        name, kind, place = (
            str(random.choice(words))
            for words in (stored.NAMES, stored.KINDS, [p for p in stored.PLACES if p.isascii()])
        )
        text = kinds[at % len(kinds)].format(name=name, kind=kind, place=place.replace(" ", "+"), start=kind[:4])
        yield "GET", f"/search?{text}&limit={PAGE}", b""
