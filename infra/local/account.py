"""Which account the servers run under, and where it can reach their files.

PostgreSQL and Elasticsearch refuse to run as root, and Kafka and Redis have no use for it. As root they
run under an unprivileged account, whose programs and data must then lie where that account can go: a
checkout under a folder only root may enter (such as /root) is answered by a place under /var/lib.
"""

import hashlib
import os
import pwd
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_repo.settings import Settings

SYSTEM_DATA = Path("/var/lib/vigil")
SYSTEM_CACHE = Path("/var/cache/vigil")


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int


def unprivileged() -> Account | None:
    """The account to drop to, or None where we are not root and run as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account("nobody", 65_534, 65_534)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def can_enter(path: Path, account: Account | None) -> bool:
    """Whether `account` may pass every folder down to the nearest existing ancestor of `path`."""
    if account is None:
        return True
    path = path.resolve()
    return all(_passable(folder, account) for folder in (path, *path.parents) if folder.is_dir())


def _passable(folder: Path, account: Account) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def make(folder: Path, mode: int) -> None:
    """Make a folder and what it lies in, with this mode whatever the umask says; leaves what exists alone."""
    if not folder.exists():
        make(folder.parent, mode)
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)


def open_home(home: Path, account: Account | None) -> None:
    """Make the stack's folder: ours alone, but passable (not listable) for the servers' account."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700 if account is None else 0o711)
    for name in ("run", "logs"):
        (home / name).mkdir(mode=0o700, exist_ok=True)


def data_folder(home: Path, name: str, account: Account | None) -> Path:
    """The folder of one server's data, owned by its account; `home/name` is it, or a link to it."""
    place = home / name
    if account is not None and not can_enter(home, account):
        place = _elsewhere(home) / name
        make(place.parent, 0o711)
        if not (home / name).is_symlink():
            (home / name).symlink_to(place)
    place.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        own(place, account)
    return place


def _elsewhere(home: Path) -> Path:
    return SYSTEM_DATA / hashlib.sha256(str(home).encode()).hexdigest()[:12]


def remove_home(home: Path) -> None:
    """Remove a home with all its data, also what `data_folder` had to put elsewhere."""
    for folder in (_elsewhere(home), home):
        if folder.exists():
            shutil.rmtree(folder)


def own(path: Path, account: Account | None) -> None:
    """Give `path` (not what lies below it) to the account."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def cache_folder(settings: Settings, account: Account | None) -> Path:
    """The folder of fetched programs: `VIGIL_CACHE`, else the user's cache, else one all accounts reach."""
    if settings.cache is not None:
        return settings.cache.resolve()
    users = (settings.xdg_cache_home or Path.home() / ".cache") / "vigil"
    return users if can_enter(users, account) else SYSTEM_CACHE


def within_reach(settings: Settings, root: Path, members: Sequence[str], account: Account | None) -> Path:
    """`root`, or a copy of its `members` in the shared cache where the account cannot come to it.

    Members are files or folders by their path under `root`; the copy keeps their places to each other,
    since programs look for their libraries relative to themselves.
    """
    if can_enter(root / members[0], account):
        return root
    stamp = hashlib.sha256(repr([(m, (root / m).stat().st_mtime_ns) for m in members]).encode()).hexdigest()
    copy = cache_folder(settings, account) / "programs" / stamp[:16]
    if not copy.exists():
        scratch = copy.with_name(f".{copy.name}.{os.getpid()}")
        for member in members:
            make((scratch / member).parent, 0o755)
            if (root / member).is_dir():
                shutil.copytree(root / member, scratch / member, symlinks=True)
            else:
                shutil.copy(root / member, scratch / member)
        open_to_all(scratch)
        scratch.rename(copy)
    return copy


def open_to_all(folder: Path) -> None:
    """Let every account read what is in a folder and run what its owner can run."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            executable = path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
