"""Fetching pinned files, from a Maven repository in a folder made of files already fetched."""

import shutil
from pathlib import Path

import pytest

from feature_repo import settings as configuration
from feature_repo.settings import Settings
from infra.local import account, jars
from infra.local.ivy import FetchFailed


@pytest.fixture
def repository(hermetic: None, tmp_path: Path) -> Path:
    """A Maven repository with the connector's files."""
    root = tmp_path / "maven"
    for artifact, jar in zip(jars.manifest("spark"), jars.spark_jars(configuration.load()), strict=True):
        place = root / artifact.organisation.replace(".", "/") / artifact.name / artifact.revision
        place.mkdir(parents=True)
        shutil.copy(jar, place / artifact.file_name)
    return root


@pytest.fixture
def settings(repository: Path, tmp_path: Path) -> Settings:
    return configuration.load(home=tmp_path / "home", cache=tmp_path / "cache", maven_root=repository.as_uri())


def test_files_are_fetched_once(settings: Settings, repository: Path) -> None:
    seen = []
    fetched = jars.classpath(settings, "spark", lambda done, total, name: seen.append((done, total)))
    assert [path.name for path in fetched] == [artifact.file_name for artifact in jars.manifest("spark")]
    assert seen[-1] == (len(fetched), len(fetched))
    shutil.rmtree(repository)
    assert jars.spark_jars(settings) == fetched


def test_a_corrupt_file_is_fetched_again_and_the_others_are_left(settings: Settings) -> None:
    first, *others = jars.spark_jars(settings)
    kept = [other.stat().st_mtime_ns for other in others]
    first.write_bytes(first.read_bytes()[:1000])
    jars.spark_jars(settings)
    folder = account.cache_folder(settings, None)
    assert all(jars.intact(folder, artifact) for artifact in jars.manifest("spark"))
    assert [other.stat().st_mtime_ns for other in others] == kept


def test_a_file_that_is_not_the_pinned_one_is_refused_and_not_kept(settings: Settings, repository: Path) -> None:
    tampered = next(repository.rglob("commons-pool2*.jar"))
    tampered.write_bytes(tampered.read_bytes() + b"more")
    with pytest.raises(FetchFailed, match="another SHA-256"):
        jars.spark_jars(settings)
    assert not list(account.cache_folder(settings, None).glob("*/commons-pool2*"))


def test_a_repository_that_lacks_a_file_is_named(settings: Settings, repository: Path) -> None:
    next(repository.rglob("commons-pool2*.jar")).unlink()
    with pytest.raises(FetchFailed) as failure:
        jars.spark_jars(settings)
    assert "commons-pool2" in str(failure.value)
    assert repository.as_uri() in str(failure.value)
    assert failure.value.exit_code == 4
    assert "VIGIL_MAVEN_ROOT" in failure.value.remedy
