"""Fetch the servers that come as Maven artefacts, once, into a cache every checkout shares.

`jars.lock` pins each file by revision and SHA-256. What is missing or does not match is fetched with
the Ivy inside pyspark (so a JDK is the only prerequisite) and moved into place only when its hash is
right: an interrupted or corrupt download is simply fetched again. `infra/local/relock.py` writes the lock.
"""

import fcntl
import hashlib
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from feature_repo.settings import Settings
from infra.local import account, ivy
from infra.local.ivy import FetchFailed

LOCK = Path(__file__).with_name("jars.lock")
NO_PROGRESS: Callable[[int, int, str], None] = lambda done, total, name: None  # noqa: E731  a null object

Progress = Callable[[int, int, str], None]
"""Called with files done, files in all, and the file just fetched."""


@dataclass(frozen=True)
class Artifact:
    """One pinned file. `group` says whose it is: kafka, elasticsearch or spark."""

    group: str
    sha256: str
    organisation: str
    name: str
    revision: str
    extension: str

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.revision}.{self.extension}"


def manifest(group: str | None = None) -> list[Artifact]:
    """The pinned files of one group, or of all."""
    rows = [line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    artifacts = [Artifact(row[0], row[1], *row[2].split(":")) for row in rows]
    return [artifact for artifact in artifacts if group in (None, artifact.group)]


def spark_jars(settings: Settings) -> list[Path]:
    """The Kafka connector for `spark.jars`, fetched if need be."""
    return classpath(settings, "spark")


def classpath(settings: Settings, group: str, progress: Progress = NO_PROGRESS) -> list[Path]:
    """The verified jars of a group; raises FetchFailed or NoJdk."""
    folder = account.cache_folder(settings, account.unprivileged())
    wanted = manifest(group)
    if not all(intact(folder, artifact) for artifact in wanted):
        with _locked(folder):
            _fetch(settings, folder, [a for a in wanted if not intact(folder, a)], progress)
    return [_place(folder, artifact) for artifact in wanted]


def elasticsearch(settings: Settings, progress: Progress = NO_PROGRESS) -> Path:
    """The unpacked Elasticsearch distribution, fetched if need be."""
    folder = account.cache_folder(settings, account.unprivileged())
    (artifact,) = manifest("elasticsearch")
    unpacked = folder / "elasticsearch" / artifact.sha256[:16]
    if unpacked.is_dir():
        return unpacked
    with _locked(folder):
        if not unpacked.is_dir():
            if not intact(folder, artifact):
                _fetch(settings, folder, [artifact], progress)
            _unpack(_place(folder, artifact), unpacked)
    return unpacked


def missing(settings: Settings, group: str) -> list[Artifact]:
    """Files of the group that a start would have to fetch; asks no network."""
    folder = account.cache_folder(settings, account.unprivileged())
    if group == "elasticsearch":
        return [a for a in manifest(group) if not (folder / group / a.sha256[:16]).is_dir()]
    return [artifact for artifact in manifest(group) if not intact(folder, artifact)]


def intact(folder: Path, artifact: Artifact) -> bool:
    """Whether the file is there with the pinned hash."""
    try:
        with _place(folder, artifact).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
    except FileNotFoundError:
        return False


def _place(folder: Path, artifact: Artifact) -> Path:
    return folder / artifact.group / artifact.file_name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two starts at once fetch once."""
    account.make(folder, 0o755)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(settings: Settings, folder: Path, wanted: list[Artifact], progress: Progress) -> None:
    if not wanted:
        return
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        files = itertools.count(1)
        ivy.retrieve(settings, Path(scratch), _module(wanted), lambda name: progress(next(files), len(wanted), name))
        for artifact in wanted:
            if not intact(Path(scratch), artifact):
                raise FetchFailed(ivy.root(settings), f"{artifact.file_name} came with another SHA-256 than pinned")
            place = _place(folder, artifact)
            account.make(place.parent, 0o755)
            source = _place(Path(scratch), artifact)
            source.chmod(0o644)
            source.replace(place)


def _module(wanted: list[Artifact]) -> str:
    """An ivy.xml that names each file and follows no dependency: the lock is the whole list."""
    module = ElementTree.Element("ivy-module", version="2.0")
    ElementTree.SubElement(module, "info", organisation="vigil", module="servers")
    configurations = ElementTree.SubElement(module, "configurations")
    for group in sorted({artifact.group for artifact in wanted}):
        ElementTree.SubElement(configurations, "conf", name=group)
    dependencies = ElementTree.SubElement(module, "dependencies")
    for artifact in wanted:
        dependency = ElementTree.SubElement(
            dependencies,
            "dependency",
            org=artifact.organisation,
            name=artifact.name,
            rev=artifact.revision,
            conf=f"{artifact.group}->default",
            transitive="false",
        )
        extension = artifact.extension
        ElementTree.SubElement(dependency, "artifact", name=artifact.name, type=extension, ext=extension)
    return ElementTree.tostring(module, encoding="unicode")


def _unpack(archive: Path, place: Path) -> None:
    """Unpack the one folder inside the zip as `place`, at once or not at all; then drop the zip."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=place.parent) as scratch:
        with zipfile.ZipFile(archive) as file:
            file.extractall(scratch)
        (top,) = Path(scratch).iterdir()
        for program in (*(top / "bin").iterdir(), *(top / "lib/tools/server-launcher").glob("server-launcher")):
            program.chmod(0o755)
        account.open_to_all(top)
        shutil.move(top, place)
    archive.unlink()
