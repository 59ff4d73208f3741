"""A supervised service's life, with small processes that do as told."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from feature_repo.errors import DependencyDown
from feature_repo.settings import inherited
from infra.local.files import Files
from infra.local.life import Life
from infra.local.ports import free_port, listeners
from infra.local.process import MARK, Identity
from infra.local.service import Service, State, in_order
from infra.local.supervisor import Supervisor

FOREVER = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
LAST_WORDS = """
import signal, sys, time
def end(*_):
    time.sleep({pause})
    print("{name}", file=open("{path}", "a"))
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FOREVER!r}])"

LISTENER = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
LEADER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTENER!r}], start_new_session=True)"


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def make(tmp_path: Path, executor: ThreadPoolExecutor) -> Iterator[Callable[[Service], Life]]:
    lives = []

    def build(service: Service) -> Life:
        lives.append(Life(service, tmp_path / f"{service.name}.log", executor))
        return lives[-1]

    yield build
    for life in lives:
        run(life, None, lambda life=life: life.state is State.DOWN)


def service(tmp_path: Path, code: str = FOREVER, **options: object) -> Service:
    plain = Service(
        name="toy",
        argv=lambda: [sys.executable, "-c", code],
        url="",
        check=lambda: None,
        env=inherited,
        cwd=tmp_path,
        start_timeout_s=10,
        stop_timeout_s=5,
    )
    return replace(plain, **options)  # type: ignore[arg-type]  # the tests name real fields


def run(life: Life, wanted: int | None, until: Callable[[], bool], within_s: float = 10.0) -> None:
    """Tick until so."""
    deadline = time.monotonic() + within_s
    while not until():
        assert time.monotonic() < deadline, f"still {life.state}: {life.detail}"
        life.tick(wanted, may_start=True)
        time.sleep(0.01)


def ready(log: Path) -> str | None:
    return None if "ready" in log.read_text() else "not ready"


def is_up(life: Life) -> Callable[[], bool]:
    return lambda: life.state is State.UP


def test_it_is_up_only_once_it_answers_and_has_been_finished(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    answers = iter(["no answer", "still starting"])
    finished: list[str] = []
    life = make(
        service(tmp_path, check=lambda: next(answers, None), finish=lambda: finished.append("roles")),
    )
    run(life, 0, is_up(life))
    assert finished == ["roles"]
    assert next(answers, None) is None


def test_it_does_not_start_before_what_it_needs(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    life = make(service(tmp_path))
    life.tick(0, may_start=False)
    assert life.state is State.DOWN


def test_a_crash_of_ours_is_followed_by_a_pause_and_a_new_process(
    tmp_path: Path, make: Callable[[Service], Life]
) -> None:
    life = make(service(tmp_path, ours=True))
    run(life, 0, is_up(life))
    assert life.identity is not None
    first = life.identity
    os.kill(first.pid, 9)
    run(life, 0, lambda: life.state is State.WAITING)
    assert life.detail == "killed by SIGKILL"
    run(life, 0, is_up(life))
    assert life.crashes == 1
    assert life.identity is not None and life.identity.pid != first.pid


def test_pauses_grow_while_it_keeps_crashing(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    life = make(service(tmp_path, "raise SystemExit(3)", ours=True, check=lambda: "not yet"))
    started = time.monotonic()
    run(life, 0, lambda: life.crashes == 3)
    assert life.detail == "exited with 3 while starting"
    assert time.monotonic() - started >= 0.5 + 1.0


def test_a_crashed_server_stays_down_until_it_is_restarted(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    life = make(service(tmp_path))
    run(life, 0, is_up(life))
    assert life.identity is not None
    os.kill(life.identity.pid, 9)
    run(life, 0, lambda: life.state is State.FAILED)
    for _ in range(20):
        life.tick(0, may_start=True)
    assert life.state is State.FAILED
    run(life, 1, is_up(life))
    assert life.generation == 1


def test_a_start_that_never_answers_fails_with_the_last_reason(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    life = make(service(tmp_path, check=lambda: "connection refused", start_timeout_s=0.5))
    run(life, 0, lambda: life.state is State.FAILED)
    assert "connection refused" in life.detail
    assert life.identity is None


def test_a_failed_preparation_says_its_error_and_remedy(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    def prepare() -> None:
        raise DependencyDown("toy", "here", "no data folder", remedy="make one")

    life = make(service(tmp_path, prepare=prepare))
    run(life, 0, lambda: life.state is State.FAILED)
    assert "no data folder" in life.detail
    assert "make one" in life.detail


def test_a_missing_program_is_a_failure_not_a_crash_of_the_supervisor(
    tmp_path: Path, make: Callable[[Service], Life]
) -> None:
    life = make(service(tmp_path, argv=lambda: [str(tmp_path / "absent")]))
    run(life, 0, lambda: life.state is State.FAILED)
    assert "absent could not be started" in life.detail


def test_a_newer_generation_is_a_restart(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    life = make(service(tmp_path))
    run(life, 0, is_up(life))
    first = life.identity
    run(life, 1, lambda: life.state is State.UP and life.generation == 1)
    assert life.identity != first


def test_a_process_deaf_to_sigterm_is_killed_at_the_deadline(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    log = tmp_path / "toy.log"
    heard = service(tmp_path, DEAF, check=lambda: None if "deaf" in log.read_text() else "no", stop_timeout_s=0.3)
    life = make(heard)
    run(life, 0, is_up(life))
    identity = life.identity
    run(life, None, lambda: life.state is State.DOWN)
    assert identity is not None and identity.process() is None


def test_children_of_a_killed_process_are_taken_along(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    life = make(service(tmp_path, PARENT))
    run(life, 0, is_up(life))
    assert life.identity is not None
    leader = psutil.Process(life.identity.pid)
    run(life, 0, lambda: bool(leader.children()))
    child = Identity.of(leader.children()[0].pid)
    leader.kill()
    run(life, 0, lambda: life.state is State.FAILED)
    assert child is not None
    deadline = time.monotonic() + 5
    while child.process() is not None:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.01)


def test_a_worker_that_outlives_its_killed_leader_does_not_keep_the_port(
    tmp_path: Path, make: Callable[[Service], Life]
) -> None:
    port, env = free_port(), inherited() | {MARK: str(tmp_path)}
    life = make(service(tmp_path, LEADER.format(port=port), ports=(port,), ours=True, env=lambda: env))
    life.service = replace(life.service, check=lambda: None if listeners(port) else "nobody listens")
    run(life, 0, is_up(life))
    assert life.identity is not None
    leader, (worker,) = psutil.Process(life.identity.pid), listeners(port)
    assert worker != leader
    leader.kill()
    run(life, 0, lambda: life.crashes == 1 and life.state is State.UP)
    assert not worker.is_running() and worker not in listeners(port)
    for left in listeners(port):
        left.kill()


def test_a_port_somebody_else_holds_is_left_to_them(tmp_path: Path, make: Callable[[Service], Life]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]
        life = make(service(tmp_path, ports=(port,), env=lambda: inherited() | {MARK: str(tmp_path)}))
        run(life, 0, lambda: life.state is State.FAILED)
        assert f"port {port} is taken by " in life.detail


def test_the_supervisor_stops_dependants_before_what_they_need(tmp_path: Path) -> None:
    for folder in ("run", "logs"):
        (tmp_path / folder).mkdir()
    own_files, diary, this = Files(tmp_path), tmp_path / "diary", Identity.of(os.getpid())
    assert this is not None
    services = {
        "store": service(tmp_path, LAST_WORDS.format(pause=0, path=diary, name="store"), name="store"),
        "worker": service(
            tmp_path, LAST_WORDS.format(pause=0.3, path=diary, name="worker"), name="worker", needs=("store",)
        ),
    }
    services = {n: replace(s, check=lambda n=n: ready(tmp_path / "logs" / f"{n}.log")) for n, s in services.items()}
    supervisor = Supervisor(own_files, services, this)
    own_files.change_wanted(lambda wanted: wanted.update(store=0, worker=0))
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while [r["state"] for r in own_files.state().get("services", {}).values()] != ["up", "up"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        supervisor.end()
        thread.join(20)
    assert diary.read_text().split() == ["worker", "store"]


def test_a_service_comes_after_all_it_needs(tmp_path: Path) -> None:
    services = {
        "api": service(tmp_path, name="api", needs=("store",)),
        "store": service(tmp_path, name="store"),
        "other": service(tmp_path, name="other"),
    }
    assert in_order(services, ["api"]) == ["store", "api"]
    services["api"] = service(tmp_path, name="api", wants=("store",))
    assert in_order(services, ["api"]) == ["store", "api"]
