"""Disks of their own under data folders, so that one can be full: file systems in a file, which takes a superuser.

They hold little more than what is written, and are gone with the run.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

SIZE = 16 << 30  # more than an hour writes; the file is sparse
LEFT = 1 << 18  # what the allocation in one piece leaves for the rest, byte by byte


class Disks:
    """`folders` that lie on disks of their own; none where `reason` says why not."""

    def __init__(self, images: Path) -> None:
        self.folders: dict[str, Path] = {}
        self.reason = ""
        self._images = images

    def mount(self, folders: Iterable[Path]) -> None:
        """An empty disk under each of these."""
        for folder in folders:
            image = self._images / folder.name
            folder.mkdir(parents=True, exist_ok=True)
            with image.open("wb") as file:
                file.truncate(SIZE)
            try:
                _run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
                _run("mount", "-o", "loop", str(image), str(folder))
            except (OSError, subprocess.CalledProcessError) as error:
                said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
                self.reason = f"no disk can be mounted here: {said.strip()}"
                self.unmount()
                return
            self.folders[folder.name] = folder
            shutil.rmtree(folder / "lost+found")

    @contextmanager
    def full(self, name: str) -> Iterator[None]:
        """Not a byte fits on the disk until the block ends."""
        folder = self.folders[name]
        filler = folder / "filler"
        try:
            descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
            try:
                room = os.statvfs(folder)
                os.posix_fallocate(descriptor, 0, max(room.f_bavail * room.f_frsize - LEFT, 1))
                os.lseek(descriptor, 0, os.SEEK_END)
                while True:
                    os.write(descriptor, bytes(4_096))
            except OSError as error:
                if error.errno != ENOSPC:
                    raise
            finally:
                os.close(descriptor)
            yield
        finally:
            filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Once nobody uses them any more."""
        for name, folder in list(self.folders.items()):
            _run("umount", "--lazy", str(folder))
            del self.folders[name]
        for image in self._images.iterdir():
            image.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
