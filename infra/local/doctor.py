"""Does this machine have what the stack needs? Each finding says what is so and what to do about it.

The memory is the sum of the limits the servers are given, well above the 2.2 GiB an idle stack took in
2026-11; the disk is mostly PostgreSQL's write-ahead log at its limit.
"""

import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from feature_repo.settings import Settings
from infra.local import account, ivy, jars, java, ports, postgres, process
from infra.local.files import Files
from infra.local.jars import Artifact
from infra.local.java import NoJdk
from infra.local.stack import Stack

REPOSITORY = Path(__file__).resolve().parents[2]
GIB = 1 << 30
STACK_BYTES = 6 * GIB  # heaps, the least shared buffers, Python processes and a million users in Redis
DATA_BYTES = 6 * GIB  # max_wal_size is 4 GiB; payments, decisions and documents come on top
CACHE_BYTES = 330 << 20  # fetched servers: 200 MB, and a zip of 127 MB while it is unpacked
LEAST_FILES = 4096  # open files per process: Kafka and Elasticsearch keep one per segment

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """`note`: works, but worth knowing. `bad`: the stack will not work; `remedy` says what to do."""

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    ours = {status.name for status in Stack(settings).status() if status.pid}
    return [
        _python(),
        packages(REPOSITORY / "requirements.lock"),
        _java(settings),
        _servers(settings),
        _cores(),
        _memory(already_running=bool(ours)),
        _disk("disk for data", "VIGIL_HOME", settings.home, DATA_BYTES),
        _disk("disk for servers", "VIGIL_CACHE", _cache(settings), 0 if _fetched(settings) else CACHE_BYTES),
        _open_files(),
        _ports(settings if ours else None),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] == (3, 11)
    return Finding("Python", "ok" if good else "bad", found, "" if good else "install Python 3.11, then `make setup`")


def packages(lock: Path) -> Finding:
    """The installed versions against the lock's pins."""
    if not lock.exists():
        return Finding("packages", "note", "no requirements.lock beside the code, nothing to compare with")
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    wrong = [f"{name} {_version(name)} instead of {pin}" for name, pin in pins if _version(name) != pin]
    if not wrong:
        return Finding("packages", "ok", f"all {len(pins)} are as locked")
    shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return Finding("packages", "bad", shown, "make setup")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _java(settings: Settings) -> Finding:
    try:
        jdk = java.find(settings, account.unprivileged())
    except NoJdk as error:
        return Finding("Java", "bad", error.cause, error.remedy)
    return Finding("Java", "ok", f"JDK {jdk.version} at {jdk.home}")


def _cache(settings: Settings) -> Path:
    return account.cache_folder(settings, account.unprivileged())


def _lacking(settings: Settings) -> list[Artifact]:
    return [artifact for group in ("kafka", "elasticsearch", "spark") for artifact in jars.missing(settings, group)]


def _fetched(settings: Settings) -> bool:
    return not _lacking(settings)


def _servers(settings: Settings) -> Finding:
    lacking = len(_lacking(settings))
    if not lacking:
        return Finding("servers", "ok", f"fetched, in {_cache(settings)}")
    return Finding("servers", "note", f"{lacking} files to fetch from {ivy.root(settings)} at the next start")


def _cores() -> Finding:
    if process.cores() >= 2:
        return Finding("cores", "ok", str(process.cores()))
    return Finding("cores", "note", str(process.cores()), "two or more, or starts and streams are slow")


def _memory(already_running: bool) -> Finding:
    free, total = process.memory()
    needed = STACK_BYTES + postgres.buffers(total) - postgres.LEAST_BUFFERS
    found = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}, the whole stack takes {needed / GIB:.0f}"
    if total < STACK_BYTES:
        return Finding("memory", "bad", found, "a larger machine, or a part of the stack: vigil up --only NAME,...")
    if free < needed and not already_running:
        return Finding("memory", "note", found, "close something large, or start a part: vigil up --only NAME,...")
    return Finding("memory", "ok", found)


def _disk(what: str, setting: str, folder: Path, need: int) -> Finding:
    """Enough, less than a full write-ahead log takes (a note), or too little to start with."""
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    found = f"{free / GIB:.1f} GiB free at {folder}, {need / GIB:.1f} needed"
    if free >= need:
        return Finding(what, "ok", found)
    return Finding(what, "note" if free > need / 4 else "bad", found, f"free some, or point {setting} at a larger disk")


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= LEAST_FILES or soft == resource.RLIM_INFINITY:
        return Finding("open files", "ok", f"{soft} per process")
    return Finding("open files", "bad", f"{soft} per process", f"ulimit -n {min(LEAST_FILES, hard)}")


def _ports(running: Settings | None) -> Finding:
    """Who holds the usual ports. `running`: settings of the stack that runs and may hold them itself."""
    own = set(Files(running.home).ports().values()) if running else set()
    taken = [
        f"{port} ({name}) by {ports.holder(port)}"
        for name, port in ports.DEFAULTS.items()
        if port not in own and not ports.is_free(port)
    ]
    if not taken:
        return Finding("ports", "ok", "the usual ones are free or ours")
    return Finding("ports", "note", f"taken: {', '.join(taken)}; `vigil up` picks free ones and says so")
