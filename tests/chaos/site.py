"""The stack under test as the nemesis and an operator see it: processes, commands, logs, what `vigil status` says."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg2
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from elasticsearch import Elasticsearch

from feature_repo.errors import AlreadyRunning, VigilError
from feature_repo.settings import Settings
from infra.local.process import Identity
from infra.local.stack import Stack
from pipelines import degraded
from pipelines.road import unread
from tests.chaos.disks import Disks
from tests.chaos.load import Load
from tests.live import environment

NOTICED_S = 60.0  # within which a process that is to halt, end or appear does
COMMAND_S = 150.0  # a restart of the slowest service on two busy cores, twice over
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


def query(settings: Settings, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()


def decided(settings: Settings) -> dict[int, int]:
    sql = "SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s"
    return dict(query(settings, sql, settings.topic))


def ends(settings: Settings) -> dict[int, int]:
    """The offset after the last of each partition; of Kafka's own word."""
    with closing(Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "chaos-ends"})) as consumer:
        partitions = consumer.list_topics(settings.topic, timeout=10).topics[settings.topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(settings.topic, number), timeout=10)[1]
            for number in partitions
        }


@dataclass
class Site:
    """The stack under load. `halts` is the folder whose files halt the stream (streaming/steps.py)."""

    stack: Stack
    halts: Path
    versions: tuple[str, str]
    chance: random.Random
    load: Load
    disks: Disks
    marks: dict[str, int] = field(default_factory=dict)  # sizes of logs when the present fault began

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    def cache(self) -> redis.Redis:
        return redis.Redis.from_url(self.settings.redis_url)

    def search(self) -> closing[Elasticsearch]:
        return closing(Elasticsearch(self.settings.elasticsearch_url, request_timeout=30))

    # ---- processes

    def leader(self, name: str) -> psutil.Process:
        """The process of a service, once it is up."""

        return eventually(lambda: self.leader_is_up(name), f"{name} did not come up", COMMAND_S)

    def leader_is_up(self, name: str) -> psutil.Process | None:
        record = self.stack.files.state().get("services", {}).get(name, {})
        identity = Identity.parse(record.get("process") or {})
        return identity.process() if identity is not None and record["state"] == "up" else None

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

    def memory(self, name: str) -> int:
        """Bytes that the processes of a service hold, what they share counted for each."""
        total = 0
        with suppress(psutil.Error):
            leader = self.leader(name)
            for process in (leader, *leader.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
        return total

    # ---- an operator

    def vigil(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command, tried again while the stream, which restarts by itself, holds what it needs."""
        for _ in range(10):
            done = subprocess.run(
                [sys.executable, "-m", "pipelines.cli", *arguments],
                env=environment(self.settings), capture_output=True, text=True, timeout=2 * COMMAND_S, check=False,
            )  # fmt: skip
            if done.returncode != AlreadyRunning.exit_code:
                break
            time.sleep(1)
        if done.returncode != 0:
            raise Unmet(f"vigil {' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-500:]}")
        return done

    def restart_server(self, name: str) -> None:
        """As an operator does who has seen that the server is down: `vigil status` must have said so."""
        self.must_show("SERVICE_DOWN", name)
        for attempt in range(3):
            try:
                self.stack.restart(name)
                return
            except VigilError:
                if attempt == 2:
                    raise
                time.sleep(5)

    def down(self, name: str) -> bool:
        return any(one.name == name and one.degraded for one in self.stack.status())

    def must_show(self, code: str, component: str | None = None) -> str:
        """Waits until `vigil status` names this, with what to do about it."""

        def shown() -> bool:
            said = degraded.of_services(self.stack.status())
            with suppress(psycopg2.Error):
                said += degraded.of_jobs(self.settings)
            return any(one["code"] == code and component in (None, one["component"]) and one["remedy"] for one in said)

        eventually(shown, f"vigil status did not show {code} {component or ''}", COMMAND_S)
        return code

    def all_decided(self, timeout_s: float) -> None:
        """Waits until everything that is there now has its outcome."""
        until = eventually(partial(self._asked, ends), "Kafka does not answer", timeout_s)

        def caught_up() -> bool:
            found = self._asked(decided)
            return found is not None and all(found.get(partition, 0) >= end for partition, end in until.items())

        eventually(lambda: caught_up() or self._asked(unread) == 0, "the stream did not catch up", timeout_s)

    def _asked(self, what: Callable[[Settings], T]) -> T | None:
        """None while the server that knows it is away."""
        with suppress(psycopg2.Error, KafkaException, VigilError):
            return what(self.settings)
        return None

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
