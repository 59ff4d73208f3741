"""The process that keeps the stack running: `python -m infra.local.supervisor --home FOLDER`.

It compares what is wanted (`run/wanted.json`, written by commands) with what is so, starts, stops and
restarts services to match, and says how things stand in `run/state.json`. So a command needs no channel to
it but two files, and what it was told survives it. SIGTERM stops everything, dependants first.
"""

import argparse
import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from feature_repo import settings as configuration
from feature_repo.errors import AlreadyRunning
from infra.local import files, logs, process, services
from infra.local.files import Files
from infra.local.life import Life
from infra.local.process import Identity
from infra.local.service import Service, State

TICK_S = 0.1
IDLE_TICK_S = 0.25  # while nothing changes
OWNER_EVERY_TICKS = 4
TRIM_EVERY_TICKS = 120  # at most half a minute between looks at the sizes of logs
SETTLED = (State.UP, State.DOWN, State.FAILED)
RUNNING = (State.STARTING, State.UP, State.STOPPING)
log = logging.getLogger("supervisor")


class Supervisor:
    """`identity` is this process; `owner`, where given, a process without which nothing shall run."""

    def __init__(
        self, own_files: Files, definitions: dict[str, Service], identity: Identity, owner: Identity | None = None
    ) -> None:
        self.files = own_files
        self.identity = identity
        self.owner = owner
        self._executor = ThreadPoolExecutor(max_workers=2 * len(definitions), thread_name_prefix="check")
        self._lives = {
            name: Life(service, own_files.log(name), self._executor) for name, service in definitions.items()
        }
        self._ending = threading.Event()
        self._written: dict[str, Any] = {}

    def end(self) -> None:
        """Begin to stop everything; `run` returns when it is done."""
        self._ending.set()

    def run(self) -> None:
        ticks = 0
        pause = threading.Event()
        while True:
            ending = self._ending.is_set()
            self._tick({} if ending else self.files.wanted(), ending)
            self._publish()
            if ending and all(life.state in (State.DOWN, State.FAILED) for life in self._lives.values()):
                self._executor.shutdown(wait=False, cancel_futures=True)
                return
            ticks += 1
            if self.owner is not None and ticks % OWNER_EVERY_TICKS == 0 and self.owner.process() is None:
                self.end()
            if ticks % TRIM_EVERY_TICKS == 0:
                for name in (*self._lives, "supervisor"):
                    logs.rotate(self.files.log(name))
            settled = all(life.state in SETTLED for life in self._lives.values())
            pause.wait(IDLE_TICK_S if settled and not ending else TICK_S)

    def _tick(self, wanted: dict[str, int], ending: bool) -> None:
        for name, life in self._lives.items():
            before = life.state
            goal = wanted.get(name)
            if ending and life.state in RUNNING and self._dependants_run(name):
                goal = life.generation
            life.tick(goal, all(self._lives[need].state is State.UP for need in life.service.needs))
            if life.state is not before:
                log.info("%s: %s -> %s %s", name, before, life.state, life.detail)

    def _dependants_run(self, name: str) -> bool:
        """Whether something that needs the service still runs: it may go down only after them."""
        return any(name in life.service.needs and life.state in RUNNING for life in self._lives.values())

    def _publish(self) -> None:
        state = {
            "supervisor": self.identity.record(),
            "services": {name: life.record() for name, life in self._lives.items()},
        }
        if state != self._written:
            self.files.write_state(state)
            self._written = state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--while-pid", type=int, help="end when this process does, however it does")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    own_files = Files(home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        with files.locked(own_files.supervisor_lock, what=f"the supervisor of {home}"):
            _supervise(home, own_files, Identity.of(arguments.while_pid) if arguments.while_pid else None)
    except AlreadyRunning as error:
        log.error("%s %s", error.code, error.message)
        sys.exit(error.exit_code)


def _supervise(home: Path, own_files: Files, owner: Identity | None) -> None:
    identity = Identity.of(process.own_pid())
    assert identity is not None, "this process exists"
    supervisor = Supervisor(own_files, services.definitions(configuration.load(home=home)), identity, owner)

    def end(number: int, frame: FrameType | None) -> None:
        log.info("asked to end by %s", signal.Signals(number).name)
        supervisor.end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal that started it may close
    log.info("supervising %s as pid %d", home, identity.pid)
    supervisor.run()
    log.info("everything is down")


if __name__ == "__main__":
    main()
