"""Start, recognise and stop processes.

A pid alone names nobody: after a reboot or a crash it may be someone else's. A process of ours is its pid
and its start time, and everything a service started carries the home of its stack in its environment, so
what a killed supervisor left behind can be found and nothing else is ever touched.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.local.account import Account

MARK = "VIGIL_SUPERVISED_BY"


@dataclass(frozen=True)
class Identity:
    """One process, not to be confused with a later one of the same pid.

    `started` counts the kernel's ticks since the boot: the time of day may be set anew under a running process, as when
    a virtual machine goes on after a pause.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        try:
            _, _, told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")  # the name before it may hold anything
            return cls(pid, int(told.split()[19]))
        except OSError:
            return None

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Identity | None":
        try:
            return cls(int(record["pid"]), int(record["started"]))
        except (KeyError, TypeError, ValueError):
            return None

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def process(self) -> psutil.Process | None:
        """The live process, or None where it ended, is a zombie or the pid is someone else's now."""
        try:
            process = psutil.Process(self.pid)
            same = Identity.of(self.pid) == self
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Bytes free and in all, within a container's limit where there is one."""
    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    for group in _control_groups():
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        free, total = min(free, max(limit - used, 0)), min(total, limit)
    return free, total


def _control_groups() -> list[Path]:
    """Ours and those above it (cgroup v2); a container sees its own as the uppermost."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    except OSError:
        own = "/"
    root = Path("/sys/fs/cgroup")
    group = root / own.lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, account: Account | None
) -> subprocess.Popen[bytes]:
    """Start a process in its own session with its output appended to `log`; never as root if an account is given."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
        )


def signal_group(leader: int, number: int) -> None:
    """Signal what is left of a process group; silent where nothing is."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def marked(home: Path) -> list[psutil.Process]:
    """Every process that a supervisor of this home started, directly or not."""
    return of_home(psutil.process_iter(), str(home))


def of_home(processes: Iterable[psutil.Process], home: str) -> list[psutil.Process]:
    """Those of them that a supervisor of this home started, directly or not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == home:
                found.append(process)
    return found


def stop(processes: Iterable[psutil.Process], grace_s: float) -> list[psutil.Process]:
    """Ask processes to end, kill those still there after `grace_s` seconds; returns the killed."""
    asked = list(processes)
    for process in asked:
        with contextlib.suppress(psutil.Error):
            process.send_signal(_polite_signal(process))
    _, stubborn = psutil.wait_procs(asked, timeout=grace_s)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return stubborn


def _polite_signal(process: psutil.Process) -> int:
    """PostgreSQL waits for its clients on SIGTERM and disconnects them on SIGINT."""
    return signal.SIGINT if name(process) == "postgres" else signal.SIGTERM


def name(process: psutil.Process) -> str:
    """Its program's name; empty where it has just ended."""
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def wait_until_gone(identity: Identity, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while identity.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def own_pid() -> int:
    return os.getpid()
