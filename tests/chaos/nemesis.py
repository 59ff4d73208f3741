"""Faults of every kind against a running stack. Each does its harm, and what an operator would do about it; the local
stack restarts our own processes by itself.

A new kind is a function of `Site` in FAULTS: what it returns stands in the table, what it raises fails the run.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import redis
from elasticsearch import Elasticsearch

from feature_repo.errors import AlreadyRunning, VigilError
from feature_repo.keys import folded_key
from feature_repo.settings import Settings
from infra.local.ports import free_port
from infra.local.process import Identity
from infra.local.stack import Stack
from pipelines.versions import Versions
from tests.live import environment

STEPS = ("parse", "claim", "load", "fold", "score", "shadow", "decide", "encode", "commit", "save", "publish")
# Between these a job that lost its partition has something left to do that it must not do any more.
BEFORE_THE_SAVE = STEPS[1:9]
NOTICED_S = 60.0  # within which a process that is to halt, end or appear does
COMMAND_S = 240.0
WORKER = "_bentoml_impl.worker.service"  # in the command line of a process that serves the model
T = TypeVar("T")


class Unmet(AssertionError):
    """Something that had to follow a fault did not."""


def eventually(what: Callable[[], T | None], why: str, timeout_s: float = NOTICED_S) -> T:
    """The first truthy answer. Raises Unmet."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise Unmet(f"{why} within {timeout_s:.0f} s")
        time.sleep(0.2)
    return answer


@dataclass
class Site:
    """The stack under test. `halts` is the folder whose files halt the stream (streaming/steps.py)."""

    stack: Stack
    halts: Path
    versions: tuple[str, str]
    chance: random.Random
    marks: dict[str, int] = field(default_factory=dict)  # sizes of logs when the present fault began

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    # ---- processes

    def leader(self, name: str) -> psutil.Process:
        """The process of a service, once it is up."""

        def up() -> psutil.Process | None:
            record = self.stack.files.state().get("services", {}).get(name, {})
            identity = Identity.parse(record.get("process") or {})
            return identity.process() if identity is not None and record["state"] == "up" else None

        return eventually(up, f"{name} did not come up", COMMAND_S)

    def child(self, name: str, mark: str, *, of_its_like: bool = False) -> psutil.Process:
        """One of a service's processes with `mark` in its command line; `of_its_like`: forked from such a one."""

        def found() -> list[psutil.Process]:
            some = []
            with suppress(psutil.Error):
                for process in self.leader(name).children(recursive=True):
                    with suppress(psutil.Error):
                        parent = process.parent()
                        if mark in " ".join(process.cmdline()) and (
                            not of_its_like or (parent is not None and mark in " ".join(parent.cmdline()))
                        ):
                            some.append(process)
            return some

        return self.chance.choice(eventually(found, f"{name} has no process {mark}"))

    def restart_server(self, name: str, down_s: float) -> None:
        """As an operator does who has seen that the server is down: `vigil status` must have said so."""
        time.sleep(down_s)
        eventually(
            lambda: any(service.name == name and service.degraded for service in self.stack.status()),
            f"vigil status did not show that {name} is down",
        )
        for attempt in range(3):
            try:
                self.stack.restart(name)
                return
            except VigilError:
                if attempt == 2:
                    raise
                time.sleep(5)

    def vigil(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command, tried again while the stream, which restarts by itself, holds what it needs."""
        for _ in range(10):
            done = subprocess.run(
                [sys.executable, "-m", "pipelines.cli", *arguments],
                env=environment(self.settings), capture_output=True, text=True, timeout=COMMAND_S, check=False,
            )  # fmt: skip
            if done.returncode != AlreadyRunning.exit_code:
                break
            time.sleep(1)
        if done.returncode != 0:
            raise Unmet(f"vigil {' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-500:]}")
        return done

    # ---- logs

    def mark(self) -> None:
        """What logs say from now on is about the present fault."""
        folder = self.settings.home / "logs"
        self.marks = {path.name: path.stat().st_size for path in folder.glob("*.log")}

    def said(self, service: str) -> str:
        """What a service said since the fault began."""
        with self.stack.log(service).open("rb") as file:
            file.seek(self.marks.get(f"{service}.log", 0))
            return file.read().decode(errors="replace")

    def must_say(self, service: str, *codes: str) -> str:
        """Waits for one of these in a service's log; returns which."""
        why = f"{service} did not say {' or '.join(codes)}"
        return eventually(lambda: next((code for code in codes if code in self.said(service)), ""), why, COMMAND_S)

    # ---- halting

    @contextmanager
    def halted(self, step: str) -> Iterator[psutil.Process]:
        """A worker that sleeps after a step; it is woken in the end where nobody killed it."""
        self.leader("stream")
        token = self.halts / step
        token.touch()
        try:
            renamed = eventually(lambda: list(self.halts.glob(f"{step}.*")), f"nothing halted after {step}", COMMAND_S)
        finally:
            token.unlink(missing_ok=True)
        worker = psutil.Process(int(renamed[0].suffix[1:]))
        renamed[0].unlink()
        try:
            yield worker
        finally:
            with suppress(psutil.Error):
                worker.resume()


# ---- what is killed and comes back by itself ------------------------------------------------------------


def _kill(name: str) -> Callable[[Site], str]:
    def kill(site: Site) -> str:
        site.leader(name).kill()
        return "kill -9"

    return kill


def _kill_child(name: str, mark: str, *, of_its_like: bool = False) -> Callable[[Site], str]:
    def kill(site: Site) -> str:
        site.child(name, mark, of_its_like=of_its_like).kill()
        return "kill -9"

    return kill


# ---- what is killed and waits for a person --------------------------------------------------------------


def _kill_server(name: str) -> Callable[[Site], str]:
    def kill(site: Site) -> str:
        down_s = site.chance.uniform(2, 12)
        site.leader(name).kill()
        site.restart_server(name, down_s)
        return f"kill -9, down {down_s:.0f} s"

    return kill


def _cache(site: Site) -> redis.Redis:
    return redis.Redis.from_url(site.settings.redis_url)


def redis_from_older_snapshot(site: Site) -> str:
    """A running job must not go on with states that lack payments."""
    with _cache(site) as client:
        saved, folded = client.lastsave(), client.get(folded_key(0))
        client.bgsave()
        eventually(lambda: client.lastsave() != saved, "Redis did not save")
        eventually(lambda: client.get(folded_key(0)) != folded, "nothing was folded", COMMAND_S)
    time.sleep(site.chance.uniform(2, 6))
    site.leader("redis").kill()
    site.restart_server("redis", 2)
    return site.must_say("stream", "STATE_BEHIND")


def redis_emptied(site: Site) -> str:
    site.leader("redis").kill()
    dump = site.settings.home / "redis"
    for file in dump.rglob("*.rdb"):
        file.unlink()
    site.restart_server("redis", 2)
    return _rebuilt(site)


def redis_flushed(site: Site) -> str:
    with _cache(site) as client:
        client.flushall()
    return _rebuilt(site)


def _rebuilt(site: Site) -> str:
    said = site.must_say("stream", "STATE_LOST")
    site.vigil("state", "rebuild")
    return f"{said}, rebuilt"


# ---- a process that dies, or sleeps, between two steps --------------------------------------------------


def worker_dies_after_a_step(site: Site) -> str:
    step = site.chance.choice(STEPS)
    with site.halted(step) as worker:
        worker.kill()
    return step


def job_dies_after_a_step(site: Site) -> str:
    """Its worker outlives it asleep, and wakes up when the next job has long gone on."""
    step = site.chance.choice(STEPS)
    with site.halted(step) as worker:
        site.leader("stream").kill()
        site.mark()
        eventually(lambda: " records in " in site.said("stream"), "the next job took no batch", COMMAND_S)
    with suppress(psutil.TimeoutExpired):
        worker.wait(10)
    with suppress(psutil.Error):
        worker.kill()
    return step


def rival_takes_over(site: Site) -> str:
    """A second job, of another home, decides what a sleeping one is about to; the sleeper wakes up and must stop."""
    step = site.chance.choice(BEFORE_THE_SAVE)
    with site.halted(step), _rival(site) as rival:
        code = rival.wait(COMMAND_S)
        if code != 0:
            raise Unmet(f"the rival ended with {code}")
    return f"{step}, {site.must_say('stream', 'FENCED', 'LEDGER_MOVED')}"


@contextmanager
def _rival(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    home = site.settings.home / "rival"
    (home / "logs").mkdir(parents=True, exist_ok=True)
    shutil.copy(site.stack.files.stack_env, home)
    ports = {name: str(free_port()) for name in ("VIGIL_SPARK_UI_PORT", "VIGIL_STREAM_METRICS_PORT")}
    with (home / "logs" / "stream.log").open("ab") as log:
        rival = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "stream", "--until-caught-up"],
            env=environment(site.settings) | {"VIGIL_HOME": str(home)} | ports, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield rival
        finally:
            with suppress(ProcessLookupError):
                rival.kill()
            rival.wait()


# ---- the rest -------------------------------------------------------------------------------------------


def freeze_serving(site: Site) -> str:
    """Nobody answers for longer than the stream is patient: unscored, with the reason; scored later."""
    worker = site.child("serving", WORKER)
    worker.suspend()
    try:
        time.sleep(site.chance.uniform(12, 20))
    finally:
        worker.resume()
    return "SIGSTOP"


def checkpoint_deleted(site: Site) -> str:
    site.leader("stream")
    for folder in (site.settings.home / "spark").glob("checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
    return "while it runs"


def checkpoint_truncated(site: Site) -> str:
    """And the job killed, so that somebody reads it."""
    site.leader("stream").suspend()
    for file in (site.settings.home / "spark").glob("checkpoint-*/**/*"):
        if file.is_file():
            file.write_bytes(b"")
    site.leader("stream").kill()
    return "and kill -9"


def alias_moved(site: Site) -> str:
    """Every batch keeps the version it was pinned to."""
    versions = Versions(site.settings)
    for turn in range(20):
        versions.point("champion", site.versions[turn % 2])
        time.sleep(site.chance.uniform(0.2, 1.5))
    return "20 times"


def search_read_only(site: Site) -> str:
    client = Elasticsearch(site.settings.elasticsearch_url, request_timeout=30)
    try:
        client.indices.put_settings(index="decisions", settings={"index.blocks.write": True})
        time.sleep(site.chance.uniform(4, 10))
        client.indices.put_settings(index="decisions", settings={"index.blocks.write": None})
    finally:
        client.close()
    return "for some seconds"


FAULTS: dict[str, Callable[[Site], str]] = {
    "job killed": _kill("stream"),
    "its JVM killed": _kill_child("stream", "java"),
    "Python worker killed": _kill_child("stream", "pyspark.worker", of_its_like=True),
    "worker dies after a step": worker_dies_after_a_step,
    "job dies after a step, its worker later": job_dies_after_a_step,
    "rival takes over": rival_takes_over,
    "serving worker killed": _kill_child("serving", WORKER),
    "serving killed": _kill("serving"),
    "serving frozen": freeze_serving,
    "PostgreSQL killed": _kill_server("postgres"),
    "Elasticsearch killed": _kill_server("elasticsearch"),
    "search index read-only": search_read_only,
    "Kafka killed": _kill_server("kafka"),
    "Redis from an older snapshot": redis_from_older_snapshot,
    "Redis killed and emptied": redis_emptied,
    "Redis flushed": redis_flushed,
    "MLflow killed": _kill("mlflow"),
    "indexer killed": _kill("indexer"),
    "lifecycle worker killed": _kill("lifecycle"),
    "checkpoint deleted": checkpoint_deleted,
    "checkpoint truncated": checkpoint_truncated,
    "alias moved under load": alias_moved,
}


def plan(chance: random.Random, kinds: Collection[str], kills: int) -> list[str]:
    """Every kind once before any comes again, in random order."""
    names: list[str] = []
    while len(names) < kills:
        names += chance.sample(sorted(kinds), len(kinds))
    return names[:kills]


def stop_signals_interrupt() -> None:
    """So that a run that is asked to end takes its servers along."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
