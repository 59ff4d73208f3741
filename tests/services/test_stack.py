"""The supervised stack: it starts, names what is in its way, survives its supervisor, and leaves nothing."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import redis

from feature_repo import settings as configuration
from feature_repo.errors import AlreadyRunning, BadConfiguration, DependencyDown
from infra.local import account, files, ports, process
from infra.local.process import Identity
from infra.local.services import SERVERS
from infra.local.stack import Stack
from tests.live import environment, new_stack


@pytest.fixture
def small(hermetic: None) -> Iterator[Stack]:
    """A stack of its own; tests start Redis in it, which takes half a second."""
    own = new_stack()
    yield own
    own.erase()


def eventually(so: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < deadline, "it did not come to be so in time"
        time.sleep(0.05)


@contextmanager
def sleeper(**options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has nothing to do with any stack."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **options) as process_of_others:
        try:
            yield process_of_others
        finally:
            process_of_others.kill()


def pid_of(stack: Stack, name: str) -> int:
    pid = {status.name: status.pid for status in stack.status()}[name]
    assert pid is not None
    return pid


def state_of(stack: Stack, name: str) -> str:
    return {status.name: status.state for status in stack.status()}[name]


def supervisor_pid(stack: Stack) -> int:
    return int(stack.files.state()["supervisor"]["pid"])


def listening(pid: int) -> set[str]:
    """Addresses the process and its children listen on."""
    leader = psutil.Process(pid)
    found = leader.net_connections("inet")
    for child in leader.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a server's helpers come and go
            found += child.net_connections("inet")
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


# ---- the whole set of servers -----------------------------------------------------------------------


def test_every_server_is_up_and_only_loopback_reaches_it(running: Stack) -> None:
    statuses = {status.name: status for status in running.status()}
    for name in SERVERS:
        assert statuses[name].state == "up", f"{name}: {statuses[name].detail}"
        assert listening(pid_of(running, name)) <= {"127.0.0.1", "::ffff:127.0.0.1"}, name
    assert statuses["api"].state == "down"


def test_no_server_of_others_runs_as_root(running: Stack) -> None:
    for name in ("kafka", "postgres", "redis", "elasticsearch"):
        assert psutil.Process(pid_of(running, name)).uids().effective != 0, name


def test_postgres_wants_the_password_and_is_durable(running: Stack) -> None:
    dsn = running.settings.postgres_dsn
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            cursor.execute(f"SHOW {setting}")
            assert cursor.fetchone() == ("on",), setting
    wrong = dsn.replace(dsn.split(":")[2].split("@")[0], "guess")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(wrong)


def test_redis_never_evicts(running: Stack) -> None:
    with redis.Redis.from_url(running.settings.redis_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0


def test_a_crashed_service_of_ours_is_started_again(running: Stack) -> None:
    before = pid_of(running, "mlflow")
    os.kill(before, signal.SIGKILL)

    def up_again() -> bool:
        (now,) = (status for status in running.status() if status.name == "mlflow")
        return now.state == "up" and now.pid not in (None, before)

    eventually(up_again, 120)


# ---- starting and stopping --------------------------------------------------------------------------


def test_down_stops_exactly_what_up_started(small: Stack) -> None:
    with sleeper() as bystander:
        small.up(["redis"])
        pids = [pid_of(small, "redis"), supervisor_pid(small)]
        assert small.down() == ["redis"]
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert ports.is_free(small.files.ports()["redis"])
        assert bystander.poll() is None
    assert {status.state for status in small.status()} == {"down"}
    assert small.down() == []


def test_data_survive_down_and_up(small: Stack) -> None:
    small.up(["redis"])
    with redis.Redis.from_url(small.settings.redis_url) as client:
        client.set("kept", "yes")
    small.down()
    small.up(["redis"])
    with redis.Redis.from_url(small.settings.redis_url) as client:
        assert client.get("kept") == b"yes"


def test_a_second_up_joins_and_adds_what_lacks(small: Stack) -> None:
    small.up(["redis"])
    first = pid_of(small, "redis"), supervisor_pid(small)
    small.up(["redis", "postgres"])
    assert (pid_of(small, "redis"), supervisor_pid(small)) == first
    assert state_of(small, "postgres") == "up"


def test_up_while_another_up_is_at_work_is_refused(small: Stack) -> None:
    account.open_home(small.settings.home, account.unprivileged())
    with files.locked(small.files.command_lock), pytest.raises(AlreadyRunning) as refusal:
        small.up(["redis"])
    assert refusal.value.exit_code == 5
    assert refusal.value.pid == os.getpid()


def test_a_second_supervisor_of_a_home_exits_5_and_changes_nothing(small: Stack) -> None:
    small.up(["redis"])
    state = small.files.state()
    argv = [sys.executable, "-m", "infra.local.supervisor", "--home", str(small.settings.home)]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 5
    assert "ALREADY_RUNNING" in second.stdout + second.stderr
    assert small.files.state() == state


def test_restart_gives_a_new_process_and_leaves_neighbours_alone(small: Stack) -> None:
    small.up(["redis", "postgres"])
    old, neighbour = pid_of(small, "redis"), pid_of(small, "postgres")
    small.restart("redis")
    assert pid_of(small, "redis") != old
    assert not psutil.pid_exists(old)
    assert pid_of(small, "postgres") == neighbour


def test_stop_stops_one_and_up_brings_it_back(small: Stack) -> None:
    small.up(["redis", "postgres"])
    small.stop("redis")
    assert (state_of(small, "redis"), state_of(small, "postgres")) == ("down", "up")
    small.up(["redis"])
    assert state_of(small, "redis") == "up"


def test_an_unknown_service_is_refused_with_the_nearest_name(small: Stack) -> None:
    with pytest.raises(BadConfiguration) as refusal:
        small.up(["postgre"])
    assert "postgres" in refusal.value.remedy


def test_secrets_are_readable_by_their_owner_only(small: Stack) -> None:
    small.up(["redis"])
    home = small.settings.home
    for path in (home / "stack.env", home / "run" / "secrets.json", home / "run", home / "logs"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# ---- what is in the way -----------------------------------------------------------------------------


def test_a_taken_port_is_named_with_its_holder_and_another_is_chosen(hermetic: None, tmp_path: Path) -> None:
    with socket.socket() as holder:
        try:
            holder.bind(("127.0.0.1", ports.DEFAULTS["redis"]))
            holder.listen()
            expected = f"pid {os.getpid()}"
        except OSError:  # something on this machine has it already: as good
            expected = ports.holder(ports.DEFAULTS["redis"])
        chosen, taken = ports.choose("default", {})
        (one,) = (each for each in taken if each.name == "redis")
        assert expected in str(one)
        assert str(ports.DEFAULTS["redis"]) in str(one)
        assert chosen["redis"] == one.chosen != ports.DEFAULTS["redis"]
        assert len(set(chosen.values())) == len(ports.DEFAULTS)


def test_a_port_taken_after_it_was_chosen_fails_the_start_and_names_the_holder(small: Stack) -> None:
    small.up(["redis"])
    small.stop("redis")
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of connections is no holder
        holder.bind(("127.0.0.1", small.files.ports()["redis"]))
        holder.listen()
        with pytest.raises(DependencyDown, match=f"taken by .*pid {os.getpid()}") as failure:
            small.up(["redis"])
    assert failure.value.exit_code == 4
    small.up(["redis"])
    assert state_of(small, "redis") == "up"


def test_a_server_that_cannot_start_is_reported_with_its_last_words(small: Stack) -> None:
    small.up(["redis"])
    small.down()
    data = (small.settings.home / "redis").resolve()
    (data / "dump.rdb").write_bytes(b"REDIS0009 but not really")
    with pytest.raises(DependencyDown, match="exited with 1") as failure:
        small.up(["redis"])
    assert "it last said" in str(failure.value)
    assert failure.value.remedy == "vigil logs redis"


def test_state_left_by_an_earlier_boot_hurts_nobody(small: Stack) -> None:
    """Pids of a stale state file now belong to others, who started at other times."""
    account.open_home(small.settings.home, account.unprivileged())
    with sleeper() as bystander:
        stale = {"pid": bystander.pid, "started": time.time() - 86_400}
        record = {"state": "up", "detail": "", "crashes": 0, "generation": 0, "process": stale}
        small.files.write_state({"supervisor": stale, "services": {"redis": record}})
        small.up(["redis"])
        assert state_of(small, "redis") == "up"
        assert bystander.poll() is None


# ---- a supervisor that is killed --------------------------------------------------------------------


def kill_supervisor(stack: Stack) -> int:
    """Kill it the hard way; returns the pid of the Redis it leaves behind."""
    orphan = pid_of(stack, "redis")
    supervisor = psutil.Process(supervisor_pid(stack))
    supervisor.kill()
    supervisor.wait()
    assert psutil.pid_exists(orphan)
    assert state_of(stack, "redis") == "orphaned"
    return orphan


def test_down_stops_what_a_killed_supervisor_left_behind(small: Stack) -> None:
    small.up(["redis"])
    orphan = kill_supervisor(small)
    assert small.down() == ["redis"]
    assert not psutil.pid_exists(orphan)


def test_up_replaces_what_a_killed_supervisor_left_behind(small: Stack) -> None:
    small.up(["redis"])
    orphan = kill_supervisor(small)
    small.up(["redis"])
    assert not psutil.pid_exists(orphan)
    assert state_of(small, "redis") == "up"


def test_an_orphan_missing_from_the_state_file_is_found_by_its_mark(small: Stack) -> None:
    account.open_home(small.settings.home, account.unprivileged())
    marked = configuration.inherited() | {process.MARK: str(small.settings.home)}
    with sleeper(env=marked) as orphan:
        eventually(lambda: bool(process.marked(small.settings.home)))
        identity = Identity.of(orphan.pid)
        assert identity is not None and identity.process() is not None
        small.down()
        assert identity.process() is None


def test_the_stack_ends_with_the_process_it_was_tied_to(small: Stack) -> None:
    with sleeper() as owner:
        tied = Stack(small.settings, while_pid=owner.pid)
        tied.up(["redis"])
        left = [Identity.of(pid_of(tied, "redis")), Identity.of(supervisor_pid(tied))]
    for identity in left:
        assert identity is not None and process.wait_until_gone(identity, 15)


# ---- where it runs ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a folder its servers cannot enter")
def test_a_home_the_servers_account_cannot_enter_gets_its_data_elsewhere(small: Stack) -> None:
    closed = small.settings.home / "closed"
    closed.mkdir()
    closed.chmod(0o700)
    hidden = Stack(configuration.load(home=closed / "home", ports="random"), while_pid=os.getpid())
    try:
        hidden.up(["redis"])
        data = (closed / "home" / "redis").resolve()
        assert state_of(hidden, "redis") == "up"
        assert not data.is_relative_to(closed)
    finally:
        hidden.erase()
    assert not data.exists()


def test_the_command_line_shows_the_stack_as_json(small: Stack) -> None:
    small.up(["redis"])
    vigil = [sys.executable, "-m", "pipelines.cli"]
    shown = subprocess.run(
        [*vigil, "status", "--json"], env=environment(small.settings), capture_output=True, text=True, check=True
    )
    answer = json.loads(shown.stdout)
    rows = {row["name"]: row for row in answer["services"]}
    assert rows["redis"]["state"] == "up"
    assert rows["redis"]["pid"] == pid_of(small, "redis")
    assert rows["redis"]["url"] == small.settings.redis_url
    assert answer["degraded"] == []
    following = subprocess.Popen(
        [*vigil, "status", "--json", "--follow"], env=environment(small.settings), stdout=subprocess.PIPE
    )
    try:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline()) == answer
        small.stop("redis")
        states = (
            {row["name"]: row["state"] for row in json.loads(line)["services"]}["redis"] for line in following.stdout
        )
        assert next(state for state in states if state != "up") in ("stopping", "down")
    finally:
        following.kill()
        following.wait()
