"""The code a Spark executor runs, as one archive: executors of a cluster need no checkout of this repository."""

import tarfile
from pathlib import Path

PACKAGES = ("feature_repo", "serving", "streaming")
FOLDER = "vigil"  # what an executor calls the archive where it has unpacked it, in its own working folder
COMPILED = (".nbi", ".nbc")  # numba's: good on processors of the driver's kind, compiled anew on others (40 s)


def archive(folder: Path) -> Path:
    """Write it into `folder`; returns its path. Files keep their times, by which numba knows what it has compiled."""
    root = Path(__file__).parents[1]
    path = folder / f"{FOLDER}.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as file:
        for source in sorted(source for package in PACKAGES for source in (root / package).rglob("*")):
            if source.is_file() and (source.parent.name != "__pycache__" or source.suffix in COMPILED):
                file.add(source, source.relative_to(root))
    return path
