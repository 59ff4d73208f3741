"""The main job from nothing: servers, history, features, training, promotion, a minute of live payments.

Every step is the function behind the command of the same name; the demo only puts them in order and says
how it went.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_repo import definitions, errors
from feature_repo.settings import Settings
from infra.local.services import SERVERS
from infra.local.stack import Stack
from pipelines import history, labels, quality, road
from pipelines.bench import latency
from pipelines.clock import SystemClock
from pipelines.defects import STANDARD, Defects
from pipelines.produce import Produced, produce
from pipelines.promote import promote
from pipelines.replay import replay
from pipelines.simulator import folder as simulator
from pipelines.simulator import world as worlds
from pipelines.simulator.world import Options
from pipelines.sources import from_people, reports
from serving.client import ModelClient
from training import recipes
from training.registration import register
from training.train import fit

SETTLE_S = 120.0
FIRST_PAYMENTS = 500
SERVED_S = 60.0
TOO_LITTLE = "demo: the history is trained on to its end, so no labelled days are left to judge by"

Say = Callable[[str, str], None]
"""Called with a step and what there is to say of it."""


@dataclass(frozen=True)
class Scale:
    """How much of everything. The live payments are the people's last `live_days`, streamed in `seconds`."""

    users: int = 9_000
    history_days: int = 28  # before the live days
    live_days: int = 7
    seed: int = 7
    recipe: str = "fast"
    rate: float = 1_000.0  # live messages per second
    seconds: int = 60
    defects: Defects = STANDARD


@dataclass(frozen=True)
class Summary:
    """What the demo ends with. `seconds` is the whole of it, `step_seconds` each step's."""

    payments_in: int
    decided: int
    flagged: int
    unscored: int
    duplicates: int
    labels_in: int
    dead_letters: dict[str, int]
    in_elasticsearch: int
    model_version: str
    promoted: str  # why the gate's judgement was passed over
    latency_p50_s: float
    latency_p99_s: float
    throughput_per_s: float
    complete: bool  # every record has its outcome and every decision its document
    urls: dict[str, str]
    seconds: float = 0.0
    step_seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Demo:
    """One run of the demo on a stack. `say` is told what happens."""

    def __init__(self, stack: Stack, scale: Scale, say: Say, today: date | None = None) -> None:
        self._stack = stack
        self._settings = stack.settings
        self._scale = scale
        self._say = say
        today = today or datetime.now(UTC).date()
        self._live_from = today - timedelta(days=scale.live_days)
        self._first = self._live_from - timedelta(days=scale.history_days)
        self._seconds: dict[str, float] = {}

    @property
    def settings(self) -> Settings:
        return self._settings

    def run(self) -> Summary:
        started = time.monotonic()
        self.prepare()
        payments = pa.Table.from_batches(from_people(self._settings, self._settings.data, SystemClock()))
        self._step("first payments", lambda: self._warm_up(payments.slice(0, FIRST_PAYMENTS)))
        began = time.time()
        produced = self._step("live payments", lambda: self._live(payments.slice(FIRST_PAYMENTS)))
        self._step("settle", lambda: road.settle(self._settings, SETTLE_S))
        summary = self._summary(began, produced)
        return Summary(**{
            **asdict(summary), "seconds": time.monotonic() - started, "step_seconds": dict(self._seconds),
        })  # fmt: skip

    def prepare(self) -> str:
        """Everything up to live traffic: the road runs with a promoted model. Returns the model version."""
        self._step("servers", lambda: self._up(SERVERS))
        self._step("history", self._history)
        self._step("validate", self._validate)
        self._step("replay", self._replay)
        self._step("feast apply", lambda: definitions.apply(self._settings))
        version = self._step("train", self.train)
        self._step("promote", lambda: promote(self._settings, version, "demo", override=TOO_LITTLE))
        self._step("services", lambda: self._up(None))
        self._step("model served", lambda: await_served(self._settings, version))
        return version

    def _step(self, name: str, do: Callable[[], Any]) -> Any:
        self._say(name, "")
        began = time.monotonic()
        result = do()
        self._seconds[name] = round(time.monotonic() - began, 2)
        return result

    def _up(self, only: tuple[str, ...] | None) -> None:
        self._settings = self._stack.up(only, lambda name, state, detail: self._say("", f"{name} {state} {detail}"))

    def _history(self) -> None:
        options = Options(users=self._scale.users, seed=self._scale.seed, start=self._first)
        with tempfile.TemporaryDirectory(dir=self._settings.home) as folder:
            simulated = simulator.write(worlds.build(options), self._scale.history_days, Path(folder))
            imported = history.import_history(self._settings, Path(folder) / simulator.HISTORY, self._settings.data)
        self._say("", f"{imported.rows_kept} payments, {simulated.frauds} frauds")

    def _validate(self) -> None:
        report = quality.validate(self._settings, self._settings.data)
        if not report.passed:
            raise errors.DataInvalid(self._settings.data, report.failures)

    def _replay(self) -> None:
        """The first time the users' states also go online; later the stream owns them."""
        fresh = not any(road.decided_until(self._settings).values())
        replayed = replay(self._settings, self._settings.data, online=fresh)
        self._say("", f"{replayed.rows} feature vectors of {replayed.users} users")

    def train(self, recipe: str | None = None, overrides: tuple[str, ...] = ()) -> str:
        """Train on the whole history and register; returns the version."""
        labels.fetch(self._settings, self._settings.data)
        chosen = recipes.named(recipe or self._scale.recipe, overrides)
        last = self._live_from - timedelta(days=1)
        fitted = fit(self._settings, self._settings.data, self._first, last, None, chosen, self._progress)
        return register(self._settings, fitted)

    def _progress(self, what: str) -> None:
        self._say("", what)

    def _warm_up(self, payments: pa.Table) -> None:
        """A few payments first: every process has then done its work once, and what follows is its pace."""
        produce(self._settings, iter(payments.to_batches()), rate=self._scale.rate)
        road.settle(self._settings, SETTLE_S)

    def _live(self, payments: pa.Table) -> Produced:
        return produce(
            self._settings,
            iter(payments.to_batches()),
            rate=self._scale.rate,
            count=int(self._scale.rate * self._scale.seconds),
            defects=self._scale.defects,
            labels=reports(self._settings, self._settings.data, SystemClock()),
            progress=lambda sent: self._say("", f"{sent:,} sent"),
        )

    def _summary(self, began: float, produced: Produced) -> Summary:
        took = latency.since(self._settings, began)
        counts = road.outcomes_since(self._settings, began)
        settled = road.settle(self._settings, 0.0)
        settings = self._settings
        return Summary(
            payments_in=produced.sent,
            decided=counts.decisions,
            flagged=counts.flagged,
            unscored=counts.by_outcome.get("unscored", 0),
            duplicates=counts.by_outcome.get("duplicate", 0),
            labels_in=produced.labels,
            dead_letters=counts.dead_letters,
            in_elasticsearch=road.documents(settings),
            model_version=", ".join(counts.versions),
            promoted=TOO_LITTLE,
            latency_p50_s=round(took.p50, 3) if took else float("nan"),
            latency_p99_s=round(took.p99, 3) if took else float("nan"),
            throughput_per_s=round(took.per_second, 1) if took else 0.0,
            complete=settled.complete,
            urls={
                "console": f"{settings.api_url}/console",
                "API": f"{settings.api_url}/docs",
                "MLflow": settings.mlflow_url,
                "Spark": f"http://127.0.0.1:{settings.spark_ui_port}",
            },
        )


def await_served(settings: Settings, version: str) -> None:
    """Raises DependencyDown where the model service does not take the champion up in time."""
    deadline = time.monotonic() + SERVED_S
    served = "nothing"
    with ModelClient(settings.serving_url) as client:
        while time.monotonic() < deadline:
            try:
                served = client.models().champion
            except errors.VigilError as error:
                served = error.message
            if served == version:
                return
            time.sleep(0.5)
    raise errors.DependencyDown("serving", settings.serving_url, f"serves {served}, not version {version}")
