"""The local stack as commands see it: up, down, status, restart.

`up` chooses ports, starts the supervisor and the servers, provisions them (migrations, topics, index
templates), then starts our own services. `down` stops exactly what was started, also where the supervisor
was killed.
"""

import contextlib
import difflib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from feature_repo import settings as configuration
from feature_repo.errors import AlreadyRunning, BadConfiguration, DependencyDown
from feature_repo.settings import Settings
from infra.local import account, files, jars, java, logs, ports, process, services, status
from infra.local.files import Files
from infra.local.process import Identity
from infra.local.service import Service, State, in_order
from infra.local.status import ServiceStatus

Progress = Callable[[str, str, str], None]
"""Called with a service (or `files`, `ports`, `provision`), its state, and a detail."""

TOO_MANY_CRASHES = 3
DOWN_TIMEOUT_S = 150.0
LEAST_PARTITIONS = 2  # so that what holds between partitions shows on one core as well
MOST_PARTITIONS = 16  # each has a worker with a connection of its own, and PostgreSQL takes 60 in all


def silent(name: str, state: str, detail: str) -> None:
    """Progress nobody watches."""


class Stack:
    """One stack, of one home. `settings` are those of a command run beside it, new after each `up`.

    With `while_pid` the stack ends with that process: a test run that is killed leaves nothing behind.
    """

    def __init__(self, settings: Settings, while_pid: int | None = None) -> None:
        self.settings = settings
        self.files = Files(settings.home)
        self._while_pid = while_pid
        self._child: subprocess.Popen[bytes] | None = None

    def up(self, only: Sequence[str] | None = None, progress: Progress = silent) -> Settings:
        """Start what is named (or all) and what it needs; joins a running stack. Returns the settings to use.

        Raises AlreadyRunning where another command is starting the stack, DependencyDown where something
        does not start, BadConfiguration for an unknown name.
        """
        names = _known(only or usual(self.settings))
        account.open_home(self.settings.home, account.unprivileged())
        with files.locked(self.files.command_lock, what="another `vigil up` of this home"):
            running = self._supervisor() is not None
            if not running:
                self._sweep()
                self._settle_ports(progress)
            definitions = services.definitions(self.settings)
            ordered = in_order(definitions, names)
            self._fetch(ordered, progress)
            if not running:
                self._start_supervisor()
            self._start([name for name in ordered if name in services.SERVERS], definitions, progress)
            self._provision(ordered, progress)
            self._start([name for name in ordered if name in services.OURS], definitions, progress)
        return self.settings

    def down(self, progress: Progress = silent) -> list[str]:
        """Stop everything this stack started, supervised or left behind; returns what ran."""
        running = [name for name, identity in self._identities().items() if identity.process()]
        supervisor = self._supervisor()
        if supervisor is not None:
            with contextlib.suppress(psutil.Error):
                supervisor.send_signal(signal.SIGTERM)
            self._await_end(supervisor, running, progress)
        self._sweep()
        if self.files.wanted():
            self.files.change_wanted(dict.clear)
        return running

    def erase(self) -> None:
        """Stop everything and remove the home with all data, also what lies elsewhere on its behalf."""
        self.down()
        account.remove_home(self.settings.home)

    def require_erasable(self) -> None:
        """Raises AlreadyRunning while anything of this stack runs, BadConfiguration where no stack ever ran."""
        home = self.settings.home
        if not (home / "run").is_dir() or not self.files.stack_env.is_file():
            raise BadConfiguration(f"{home} is not the home of a stack: nothing was removed", remedy="set VIGIL_HOME")
        supervisor = self._supervisor()
        for running in [*([supervisor] if supervisor else []), *process.marked(home)]:
            raise AlreadyRunning(f"the stack of {home}", running.pid)

    def restart(self, *names: str, progress: Progress = silent) -> None:
        """Stop services and start them again; their neighbours stay up."""
        self._command(names, progress, start=True)

    def stop(self, name: str, progress: Progress = silent) -> None:
        """Stop one service; the rest stays up."""
        self._command([name], progress, start=False)

    def note_partitions(self, partitions: int) -> bool:
        """Have services that start from now on go by another number of partitions, which the topic has got.

        False where they would not hear of it: the environment says another number, or this home holds no stack.
        """
        said = configuration.inherited().get("VIGIL_PARTITIONS", str(partitions))
        if said != str(partitions) or not self.files.stack_env.is_file():
            return False
        environment = files.stack_env(self.settings, self.files.ports(), self.files.secrets(), partitions)
        files.replace(self.files.stack_env, environment)
        self.settings = configuration.load(home=self.settings.home)
        return True

    def log(self, name: str) -> Path:
        if name != "supervisor":
            _known([name])
        return self.files.log(name)

    def status(self) -> list[ServiceStatus]:
        """How each service is now: what runs is asked, all at once."""
        return status.look(self.settings, supervised=self._supervisor() is not None)

    # ---- starting ---------------------------------------------------------------------------

    def _fetch(self, names: Sequence[str], progress: Progress) -> None:
        """Find the JDK and fetch the files a start will need, so that a lack is known at once."""
        needed = set(names) & {"kafka", "elasticsearch", "stream", "windows"}
        if not needed:
            return
        java.find(self.settings, account.unprivileged())

        def fetched(done: int, total: int, name: str) -> None:
            progress("files", f"{done} of {total}", name)

        if "kafka" in needed:
            jars.classpath(self.settings, "kafka", fetched)
        if "elasticsearch" in needed:
            jars.elasticsearch(self.settings, fetched)
        if needed & {"stream", "windows"}:
            jars.classpath(self.settings, "spark", fetched)

    def _settle_ports(self, progress: Progress) -> None:
        chosen, taken = ports.choose(self.settings.ports, self.files.ports())
        for one in taken:
            progress("ports", "taken", str(one))
        self.files.write_ports(chosen)
        environment = files.stack_env(self.settings, chosen, self.files.secrets(), self._partitions())
        files.replace(self.files.stack_env, environment)
        self.settings = configuration.load(home=self.settings.home)

    def _partitions(self) -> int:
        """Of the payments topic: as set, or as the first start chose. A task takes a partition, a core a task."""
        if "partitions" in self.settings.model_fields_set:
            return self.settings.partitions
        return min(MOST_PARTITIONS, max(LEAST_PARTITIONS, process.cores()))

    def _start_supervisor(self) -> None:
        self.files.change_wanted(dict.clear)
        log = self.files.log("supervisor")
        logs.rotate(log)
        home = self.settings.home
        argv = [sys.executable, "-P", "-m", "infra.local.supervisor", "--home", str(home)]
        self._child = process.spawn(
            argv + (["--while-pid", str(self._while_pid)] if self._while_pid else []),
            env=configuration.inherited() | {"VIGIL_HOME": str(home)},
            cwd=home / "run",
            log=log,
            account=None,
        )
        deadline = time.monotonic() + 20
        while self._supervisor() is None:
            if self._child.poll() is not None or time.monotonic() > deadline:
                cause = "; ".join(logs.tail(log, 1)) or "it said nothing"
                raise DependencyDown("supervisor", str(home), f"did not start: {cause}")
            time.sleep(0.05)

    def _start(self, names: Sequence[str], definitions: dict[str, Service], progress: Progress) -> None:
        records = self.files.state().get("services", {})
        gave_up = {name for name, record in records.items() if record["state"] in (State.FAILED, State.WAITING)}

        def want(wanted: dict[str, int]) -> None:
            for name in names:
                wanted[name] = wanted.get(name, 0) + (name in gave_up)

        self.files.change_wanted(want)
        self._await_up(names, definitions, progress)

    def _await_up(self, names: Sequence[str], definitions: dict[str, Service], progress: Progress) -> None:
        """Until every service is up in the generation wanted; raises DependencyDown for the first that fails."""
        shown: dict[str, str] = {}
        waiting = set(names)
        wanted = self.files.wanted()
        while waiting:
            if self._supervisor() is None:
                raise DependencyDown(
                    "supervisor", str(self.settings.home), "ended while starting", remedy="vigil logs supervisor"
                )
            records = self.files.state().get("services", {})
            for name in sorted(waiting):
                record = records.get(name, {})
                if record.get("generation") != wanted.get(name):
                    continue
                state, detail = record["state"], record["detail"]
                if shown.get(name) != state:
                    shown[name] = state
                    progress(name, state, detail)
                if state == State.UP:
                    waiting.discard(name)
                elif state == State.FAILED or record["crashes"] >= TOO_MANY_CRASHES:
                    raise self._failure(definitions[name], detail)
            time.sleep(0.1)

    def _failure(self, service: Service, detail: str) -> DependencyDown:
        said = next((line.strip() for line in reversed(logs.tail(self.files.log(service.name), 20)) if line), "")
        address = service.url.split("@")[-1] or str(self.settings.home)
        cause = f"{detail}; it last said: {said}" if said else detail
        return DependencyDown(service.name, address, cause, remedy=f"vigil logs {service.name}")

    def _provision(self, names: Sequence[str], progress: Progress) -> None:
        """Migrations, topics and templates: safe to apply again, so every start brings them up to date."""
        if "postgres" in names:
            from infra.sql import migrate

            progress("provision", "running", "database migrations")
            migrate.upgrade(self.settings)
        if "kafka" in names:
            from infra.kafka import provision as topics

            progress("provision", "running", "topics")
            topics.apply(self.settings)
        if "elasticsearch" in names:
            from infra.elasticsearch import provision as templates

            progress("provision", "running", "index templates")
            templates.apply(self.settings)

    def _command(self, names: Sequence[str], progress: Progress, *, start: bool) -> None:
        _known(names)
        if self._supervisor() is None:
            raise DependencyDown("supervisor", str(self.settings.home), "is not running", remedy="vigil up")
        definitions = services.definitions(self.settings)

        def change(wanted: dict[str, int]) -> None:
            for name in names:
                turn = wanted.pop(name, 0)
                if start:
                    wanted[name] = turn + 1

        self.files.change_wanted(change)
        if start:
            self._await_up(names, definitions, progress)
            return
        for name in names:
            self._await_down(name, definitions[name].stop_timeout_s + 10)

    # ---- stopping ---------------------------------------------------------------------------

    def _await_down(self, name: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.files.state()["services"][name]["state"] != State.DOWN:
            if time.monotonic() > deadline:
                raise DependencyDown(name, str(self.settings.home), f"did not stop within {timeout_s:.0f} s")
            time.sleep(0.1)

    def _await_end(self, supervisor: psutil.Process, running: Iterable[str], progress: Progress) -> None:
        """Until the supervisor ended, or long enough that killing it is all that is left."""
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        identity = Identity.of(supervisor.pid)
        left = set(running)
        while identity is not None and identity.process() is not None and time.monotonic() < deadline:
            for name in sorted(left):
                if self.files.state()["services"][name]["state"] in (State.DOWN, State.FAILED):
                    left.discard(name)
                    progress(name, State.DOWN, "")
            time.sleep(0.1)
        for name in sorted(left):
            progress(name, State.DOWN, "")
        with contextlib.suppress(psutil.Error):
            if identity is not None and identity.process() is not None:
                supervisor.kill()
        if self._child is not None:
            self._child.wait()  # where this very process started it, nobody else buries it

    def _supervisor(self) -> psutil.Process | None:
        identity = Identity.parse(self.files.state().get("supervisor") or {})
        return identity.process() if identity else None

    def _identities(self) -> dict[str, Identity]:
        records = self.files.state().get("services", {})
        found = {name: Identity.parse(record.get("process") or {}) for name, record in records.items()}
        return {name: identity for name, identity in found.items() if identity}

    def _sweep(self) -> None:
        """Stop what a killed supervisor left: known by pid and start time, or by the mark of this home."""
        left = {p.pid: p for identity in self._identities().values() if (p := identity.process())}
        left |= {p.pid: p for p in process.marked(self.settings.home)}
        servers = {p.pid for p in left.values() if process.name(p) in ("postgres", "redis-server", "java")}
        process.stop([p for p in left.values() if p.pid not in servers], grace_s=20)
        process.stop([p for p in left.values() if p.pid in servers], grace_s=60)
        if self.files.state():
            self.files.write_state({})


def usual(settings: Settings) -> list[str]:
    """What starts where nothing is named."""
    return [name for name in services.NAMES if name != "windows" or settings.windows]


def _known(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in services.NAMES:
            near = difflib.get_close_matches(name, services.NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"services are {', '.join(services.NAMES)}"
            raise BadConfiguration(f"there is no service '{name}'", remedy=hint)
    return list(names)
