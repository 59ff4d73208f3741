"""`vigil bench`: the whole road under load, on a stack of its own, with its cost per payment.

The stack is the production one: its migrations, indexes and fsync. Payments are produced while the road
runs, by a process of its own whose cost is not counted, with 2 % of defects among them.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feature_repo import settings as configuration
from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from infra.local.stack import Stack
from pipelines import road
from pipelines.bench import latency, machine, usage
from pipelines.demo import Demo, Scale

USERS = 50_000
HISTORY_DAYS = 14
WARM_UP_S = 60  # half the rate; until then the JVMs interpret and compile more than they work
SETTLE_S = 180.0
DEFECTS = "malformed=0.005,duplicate=0.005,unkeyed=0.005,late=0.005"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One rate, held for `seconds`. Latency is from the broker's timestamp to the end of the transaction."""

    rate: float
    seconds: float
    sent: int
    decided: int
    per_second: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    lag_at_end: int  # records without an outcome the moment the producer stopped
    complete: bool  # in the end every record had its outcome and every decision its document
    core_us_per_event: dict[str, float]  # CPU of each service's process tree over records decided
    core_us_total: float
    memory_gib: float  # resident, all services


@dataclass(frozen=True)
class Report:
    machine: dict[str, Any]
    conditions: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_road(rates: list[float], seconds: float, say: Say = lambda _: None) -> Report:
    """Bring up a fresh road in a temporary home, hold each rate, and tear it down again."""
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)  # PostgreSQL and Elasticsearch run as another user when we are root
        stack = Stack(configuration.load(home=home, ports="random"))
        try:
            demo = Demo(stack, Scale(users=USERS, history_days=HISTORY_DAYS), lambda step, what: say(step or what))
            demo.prepare()
            return measure(stack, rates, seconds, say)
        finally:
            stack.down()


def measure(stack: Stack, rates: list[float], seconds: float, say: Say = lambda _: None) -> Report:
    """Hold each rate on a road that runs already, warmed up first."""
    say("warm up")
    _produce(stack.settings, rates[0] / 2, WARM_UP_S)
    _await_rest(stack.settings)
    runs = [_hold(stack, rate, seconds, say) for rate in rates]
    conditions = {
        "partitions": stack.settings.partitions,
        "users": USERS,
        "defects": DEFECTS,
        "elasticsearch": True,
        "fsync": True,
        "features": "all",
        "warm_up_s": WARM_UP_S,
        "max_offsets_per_trigger": stack.settings.max_offsets_per_trigger,
    }
    return Report(machine.describe().as_dict(), conditions, runs)


def _hold(stack: Stack, rate: float, seconds: float, say: Say) -> Run:
    settings = stack.settings
    say(f"{rate:,.0f} per second for {seconds:.0f} s")
    pids = {service.name: service.pid for service in stack.status() if service.pid}
    outcomes = sum(road.outcomes(settings).values())
    before, began = usage.of_services(pids), time.time()
    sent = _produce(settings, rate, seconds)
    lag = road.lag(settings)
    settled = _await_rest(settings)
    after = usage.of_services(pids)
    events = sum(road.outcomes(settings).values()) - outcomes
    took = latency.since(settings, began)
    if took is None:
        raise DependencyDown("stream", settings.api_url, "nothing was decided")
    cost = {name: cpu / events * 1e6 for name, cpu in usage.spent(before, after).items()}
    return Run(
        rate=rate,
        seconds=seconds,
        sent=sent,
        decided=took.payments,
        per_second=took.per_second,
        p50_s=took.p50,
        p95_s=took.p95,
        p99_s=took.p99,
        max_s=took.max,
        lag_at_end=lag,
        complete=settled.complete,
        core_us_per_event=cost,
        core_us_total=sum(cost.values()),
        memory_gib=sum(one.rss for one in after.values()) / 2**30,
    )


def _produce(settings: Settings, rate: float, seconds: float) -> int:
    """Run the producer as a process of its own; returns the messages it sent."""
    command = [
        *(sys.executable, "-m", "pipelines.cli", "produce", "--data", settings.data, "--shift-to-now"),
        *("--rate", str(rate), "--count", str(int(rate * seconds)), "--defects", DEFECTS, "--json"),
    ]
    environment = configuration.inherited() | {"VIGIL_HOME": str(settings.home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DependencyDown("vigil produce", settings.kafka_bootstrap, done.stderr.strip()[-500:])
    return int(json.loads(done.stdout)["sent"])


def _await_rest(settings: Settings) -> road.Settled:
    return road.settle(settings, SETTLE_S)
