"""Log files of supervised services, kept small. Writers append, so cutting a file in place loses nothing."""

import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import sleep

LIMIT_BYTES = 32 << 20


def rotate(log: Path, limit: int = LIMIT_BYTES) -> None:
    """Move a file above the limit to `NAME.log.1`, replacing the one before; cuts it in place for its writer."""
    try:
        if log.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as file:
        file.truncate(0)


def tail(log: Path, lines: int) -> list[str]:
    try:
        with log.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, lines)]
    except FileNotFoundError:
        return []


def follow(log: Path, lines: int) -> Iterator[str]:
    """The last lines, then every new one, for ever; bears the file being cut."""
    yield from tail(log, lines)
    position = log.stat().st_size if log.exists() else 0
    while True:
        sleep(0.25)
        size = log.stat().st_size if log.exists() else 0
        position = 0 if size < position else position
        if size > position:
            with log.open("rb") as file:
                file.seek(position)
                fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            position += len(whole)
            yield from whole.decode(errors="replace").splitlines()
