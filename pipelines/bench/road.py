"""`vigil bench`: the road under load, on a stack of its own, with its cost per payment.

The stack is the production one: its migrations, indexes and fsync. Two roads are measured: the decisions alone
(Kafka, features, BentoML, decision, PostgreSQL, topic decisions), and everything, each payment indexed in Elasticsearch
as well. Each is given a backlog, to see what it takes at most, and rates to hold, to see how long payments take.
Payments are made and sent while the road runs by a process of its own (traffic.py), whose cost is not counted.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from feature_repo import definitions
from feature_repo import settings as configuration
from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from feature_repo.transaction import HISTORY_SCHEMA
from infra.local.stack import Stack
from pipelines import history, road
from pipelines.bench import latency, machine, usage
from pipelines.bench.traffic import DEFECT, DEFECTS, MERCHANTS, PER_DAY, USERS, Traffic
from pipelines.demo import await_served
from pipelines.promote import promote
from pipelines.replay import replay
from training import recipes
from training.registration import register
from training.train import fit

DECISIONS, EVERYTHING = "decisions", "everything"
SERVERS = ("kafka", "postgres", "redis", "mlflow")
ROADS = {
    DECISIONS: (*SERVERS, "serving", "stream"),
    EVERYTHING: (*SERVERS, "elasticsearch", "serving", "stream", "indexer"),
}
HISTORY_DAYS = 7
LIVE_DAYS = 53  # of event time between the history and now: the most that one benchmark can send
WARM_UP = 1_000_000  # payments; until then the JVMs interpret and compile more than they work
SHARES = (0.3, 0.6)  # rates held, of what the road took at most: what makes and sends them wants cores as well
SETTLE_S = 300.0
POLL_S = 0.25
UNLABELLED = "bench: made to be measured with, not to be right"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One load: a rate that was held for some time, or (rate None) a backlog that was worked off."""

    road: str
    rate: float | None
    sent: int
    decided: int  # records with an outcome that are counted here
    seconds: float
    per_second: float
    p50_s: float | None  # from the broker's timestamp to the end of the deciding transaction; None for a backlog
    p95_s: float | None
    p99_s: float | None
    max_s: float | None
    lag_at_end: int | None  # records without an outcome the moment the producer stopped
    complete: bool  # in the end every record had its outcome and every decision its document
    flagged: float  # share of the decisions
    core_us: dict[str, float]  # CPU of each service's process tree over records decided
    core_us_total: float
    memory_gib: float  # at the end, all services
    grown_gib: float  # since the load began

    @property
    def per_core(self) -> float:
        """Payments per second that one core carries."""
        return 1e6 / self.core_us_total


@dataclass(frozen=True)
class Report:
    machine: dict[str, Any]
    conditions: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "conditions": self.conditions,
            "runs": [asdict(run) | {"per_second_per_core": round(run.per_core)} for run in self.runs],
        }


def bench_road(
    roads: Sequence[str], rates: Sequence[float], seconds: float, backlog: int, say: Say = lambda _: None
) -> Report:
    """Give each road its loads, on a stack of its own in a temporary home, and tear that down again.

    What one road left on the topics would be work for the next: decisions that were never indexed.
    """
    runs: list[Run] = []
    for name in roads:
        with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
            home = Path(folder)
            home.chmod(0o755)  # PostgreSQL and Elasticsearch run as another user when we are root
            stack = Stack(configuration.load(home=home, ports="random", windows=False))
            try:
                bench = Bench(stack, say)
                bench.prepare()
                runs += bench.measure(name, rates, seconds, backlog)
                conditions = bench.conditions()
            finally:
                stack.down()
    return Report(machine.describe().as_dict(), conditions, runs)


class Bench:
    """A stack of its own with a model of its own, and how far the traffic has come."""

    def __init__(self, stack: Stack, say: Say = lambda _: None) -> None:
        self._stack = stack
        self._say = say
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._start = today - timedelta(days=HISTORY_DAYS + LIVE_DAYS)
        self._traffic = Traffic(int(self._start.timestamp()) * 1_000_000)
        self._next = HISTORY_DAYS * PER_DAY  # number of the first payment not yet sent

    @property
    def settings(self) -> Settings:
        return self._stack.settings

    def prepare(self) -> None:
        """Servers, a model trained on the traffic before, and its users' states online."""
        self._up(SERVERS)
        settings, name = self.settings, self.settings.data
        self._say("history")
        with tempfile.TemporaryDirectory(dir=settings.home) as folder:
            path = Path(folder) / "history.parquet"
            with pq.ParquetWriter(path, HISTORY_SCHEMA) as writer:
                for batch in self._traffic.history(self._next):
                    writer.write_batch(batch)
            history.import_history(settings, path, name)
        self._say("replay")
        replay(settings, name, online=True)
        definitions.apply(settings)
        last = (self._start + timedelta(days=HISTORY_DAYS - 1)).date()
        fitted = fit(settings, name, self._start.date(), last, None, recipes.named("fast"), self._say)
        self._version = register(settings, fitted)
        promote(settings, self._version, "bench", override=UNLABELLED)

    def measure(self, name: str, rates: Sequence[float], seconds: float, backlog: int) -> list[Run]:
        """A warm-up that is not counted, a backlog of so many payments, then each rate for `seconds`.

        Without `rates` they are shares of what the road took of the backlog.
        """
        self._up(ROADS[name])
        await_served(self.settings, self._version)
        self._say(f"{name}: warm up")
        self._send(WARM_UP)
        self._settle(name)
        runs = [self._work_off(name, backlog)]
        most = runs[0].per_second
        return runs + [self._hold(name, rate, seconds) for rate in rates or [share * most for share in SHARES]]

    def conditions(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "partitions": settings.partitions,
            "users": f"{USERS:,} by Zipf's law",
            "merchants": f"{MERCHANTS:,}",
            "defects": f"{DEFECT:.1%} each {', '.join(DEFECTS)}",
            "fsync": "on",
            "features": "all",
            "batch_target_s": settings.batch_target_s,
        }

    def _up(self, names: Sequence[str]) -> None:
        self._stack.up(names, lambda name, state, detail: self._say(f"{name} {state} {detail}"))

    def _send(self, count: int, rate: float | None = None) -> int:
        """Send the next payments from a process of its own; returns the messages sent."""
        command = [sys.executable, "-m", "pipelines.bench.traffic", "--start", str(self._traffic.start_us)]
        command += ["--first", str(self._next), "--count", str(count)]
        command += ["--rate", str(rate)] if rate else []
        self._next += count
        environment = configuration.inherited() | {"VIGIL_HOME": str(self.settings.home)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise DependencyDown("bench's load", self.settings.kafka_bootstrap, done.stderr.strip()[-500:])
        return int(json.loads(done.stdout)["messages"])

    def _settle(self, name: str) -> bool:
        return road.settle(self.settings, SETTLE_S, search=name == EVERYTHING).complete

    def _work_off(self, name: str, backlog: int) -> Run:
        """What is left of a backlog when all of it is in Kafka: the load no longer takes cores away then."""
        self._say(f"{name}: a backlog of {backlog:,}")
        sent = self._send(backlog)
        look, began = _Look.now(self._stack), time.time()
        while road.lag(self.settings):
            time.sleep(POLL_S)
        decided_s = time.time() - began
        complete = self._settle(name)
        seconds = time.time() - began if name == EVERYTHING else decided_s
        return self._run(name, None, sent, look, began, seconds, None, complete)

    def _hold(self, name: str, rate: float, seconds: float) -> Run:
        self._say(f"{name}: {rate:,.0f} per second for {seconds:.0f} s")
        look, began = _Look.now(self._stack), time.time()
        sent = self._send(int(rate * seconds), rate)
        lag, took = road.lag(self.settings), time.time() - began
        return self._run(name, rate, sent, look, began, took, lag, self._settle(name))

    def _run(
        self, name: str, rate: float | None, sent: int, before: "_Look", began: float, seconds: float, lag: int | None,
        complete: bool,
    ) -> Run:  # fmt: skip
        after = _Look.now(self._stack)
        counts = road.outcomes_since(self.settings, began)
        took = latency.since(self.settings, began) if rate else None
        events = after.outcomes - before.outcomes
        if not events:
            raise DependencyDown("stream", self.settings.api_url, "nothing was decided")
        cost = {service: cpu / events * 1e6 for service, cpu in usage.spent(before.usage, after.usage).items()}
        return Run(
            road=name,
            rate=rate,
            sent=sent,
            decided=events,
            seconds=seconds,
            per_second=took.per_second if took else events / seconds,
            p50_s=took.p50 if took else None,
            p95_s=took.p95 if took else None,
            p99_s=took.p99 if took else None,
            max_s=took.max if took else None,
            lag_at_end=lag,
            complete=complete,
            flagged=counts.flagged / max(counts.decisions, 1),
            core_us=cost,
            core_us_total=sum(cost.values()),
            memory_gib=after.memory / 2**30,
            grown_gib=(after.memory - before.memory) / 2**30,
        )


@dataclass(frozen=True)
class _Look:
    """What the services had used and decided at one moment."""

    usage: dict[str, usage.Usage]
    outcomes: int

    @classmethod
    def now(cls, stack: Stack) -> "_Look":
        pids = {service.name: service.pid for service in stack.status() if service.pid}
        used = usage.of_services(pids)
        return cls(used, road.decided(stack.settings))

    @property
    def memory(self) -> int:
        return sum(one.memory for one in self.usage.values())
