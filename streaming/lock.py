"""One process of a kind per home folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from feature_repo.errors import AlreadyRunning
from feature_repo.settings import Settings


@contextmanager
def only_one(settings: Settings, command: str) -> Iterator[None]:
    """Hold this home folder's lock of a command; the kernel releases it whatever way the process ends."""
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{command}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise AlreadyRunning(f"vigil {command}", int(lock.read() or 0)) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
