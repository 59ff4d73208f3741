"""The local stack's pure parts: finding a JDK, pinned files, ports, log files."""

import itertools
import os
from pathlib import Path

import pytest

from feature_repo import settings as configuration
from feature_repo.errors import AlreadyRunning
from infra.local import doctor, files, ivy, jars, java, logs, ports, postgres, services
from infra.local.java import Jdk, NoJdk
from infra.local.stack import usual


def jdk(folder: Path, version: str, *, full: bool = True) -> Path:
    (folder / "bin").mkdir(parents=True)
    for program in ("java", "javac") if full else ("java",):
        (folder / "bin" / program).touch()
    (folder / "release").write_text(f'IMPLEMENTOR="Test"\nJAVA_VERSION="{version}"\n')
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Java but for what the test puts under the folder."""
    monkeypatch.setattr(java, "SYSTEM_FOLDERS", (f"{tmp_path}/jvm/*",))
    monkeypatch.setattr(java, "USER_FOLDERS", ())
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("VIGIL_JAVA_HOME", raising=False)
    return tmp_path


def settings(machine: Path, **more: object) -> configuration.Settings:
    return configuration.load(home=machine / "home", **more)


def test_the_proven_newest_jdk_is_taken(machine: Path) -> None:
    for version in ("1.8.0_402", "17.0.9", "21.0.5", "25.0.3", "27"):
        jdk(machine / "jvm" / version, version)
    assert java.find(settings(machine)) == Jdk(machine / "jvm" / "25.0.3", 25)


def test_an_unproven_newer_jdk_will_do(machine: Path) -> None:
    jdk(machine / "jvm" / "new", "27")
    assert java.find(settings(machine)).version == 27


def test_java_home_is_considered(machine: Path) -> None:
    own = jdk(machine / "own", "21.0.5")
    assert java.find(settings(machine, java_home=own)).home == own


def test_too_old_a_java_is_named_with_the_package_to_install(machine: Path) -> None:
    jdk(machine / "jvm" / "old", "17.0.9")
    jdk(machine / "jvm" / "bare", "21.0.5", full=False)
    with pytest.raises(NoJdk) as refusal:
        java.find(settings(machine))
    assert "JDK 17 at" in str(refusal.value)
    assert "runtime 21 at" in str(refusal.value)
    assert "openjdk-21-jdk-headless" in refusal.value.remedy
    assert refusal.value.exit_code == 4


def test_no_java_at_all_is_said(machine: Path) -> None:
    with pytest.raises(NoJdk, match="found: none"):
        java.find(settings(machine))


def test_every_file_is_pinned_by_hash_and_revision() -> None:
    artifacts = jars.manifest()
    assert {artifact.group for artifact in artifacts} == {"kafka", "elasticsearch", "spark"}
    assert all(len(artifact.sha256) == 64 for artifact in artifacts)
    assert len({(artifact.group, artifact.file_name) for artifact in artifacts}) == len(artifacts)


def test_no_repository_address_is_written_down() -> None:
    for path in Path(jars.__file__).parent.glob("*.*"):
        if path.is_file():
            assert "https://" not in path.read_text(), path


def test_a_file_with_another_hash_is_not_intact(tmp_path: Path) -> None:
    artifact = jars.manifest("spark")[0]
    assert not jars.intact(tmp_path, artifact)
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / artifact.file_name).write_bytes(b"half of it")
    assert not jars.intact(tmp_path, artifact)


def test_a_mirror_of_mavens_settings_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivy.Path, "home", lambda: tmp_path)
    monkeypatch.delenv("VIGIL_MAVEN_ROOT", raising=False)
    assert ivy.root(configuration.load(home=tmp_path)) == "Ivy's default public repository"
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(
        '<settings xmlns="urn:maven"><mirrors><mirror><id>m</id><mirrorOf>external:*</mirrorOf>'
        "<url>http://mirror.example/maven</url></mirror></mirrors></settings>"
    )
    assert ivy.root(configuration.load(home=tmp_path)) == "http://mirror.example/maven"
    assert ivy.root(configuration.load(home=tmp_path, maven_root="http://set.example")) == "http://set.example"


def test_random_ports_avoid_the_usual_ones_and_stay_over_a_restart() -> None:
    chosen, taken = ports.choose("random", {})
    again, _ = ports.choose("random", chosen)
    assert taken == []
    assert again == chosen
    assert not set(chosen.values()) & set(ports.DEFAULTS.values())
    assert len(set(chosen.values())) == len(ports.DEFAULTS)


def test_a_log_above_the_limit_is_moved_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    with log.open("a") as writer:
        writer.write("old\n" * 100)
        writer.flush()
        logs.rotate(log, limit=100)
        writer.write("new\n")
    assert log.read_text() == "new\n"
    assert (tmp_path / "api.log.1").read_text() == "old\n" * 100
    logs.rotate(log, limit=100)
    assert log.read_text() == "new\n"


def test_following_a_log_gives_the_end_then_whole_new_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "api.log"
    log.write_text("one\ntwo\nthree\n")
    additions = iter(["four", "\nfive\n"])

    def write_more(_: float) -> None:
        with log.open("a") as file:
            file.write(next(additions))

    monkeypatch.setattr(logs, "sleep", write_more)
    assert list(itertools.islice(logs.follow(log, 2), 4)) == ["two", "three", "four", "five"]


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock"), pytest.raises(AlreadyRunning) as refusal, files.locked(tmp_path / "lock"):
        pass
    assert refusal.value.pid == os.getpid()


def test_passwords_are_made_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    first = files.Files(tmp_path).secrets()
    assert files.Files(tmp_path).secrets() == first
    assert len(set(first.values())) == len(files.ROLES)


def test_the_stack_file_is_what_settings_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in configuration.inherited():
        if name.startswith("VIGIL_"):
            monkeypatch.delenv(name)
    (tmp_path / "run").mkdir()
    chosen = {name: 20_000 + i for i, name in enumerate(ports.DEFAULTS)}
    secrets = files.Files(tmp_path).secrets()
    files.replace(tmp_path / "stack.env", files.stack_env(configuration.load(home=tmp_path), chosen, secrets, 3))
    found = configuration.load(home=tmp_path)
    assert found.kafka_bootstrap == f"127.0.0.1:{chosen['kafka']}"
    assert found.spark_ui_port == chosen["spark_ui"]
    assert found.partitions == 3
    assert secrets["vigil_reader"] in found.postgres_reader_dsn


def test_doctor_names_a_package_that_is_not_as_locked(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==0.0.1 \\\n    --hash=sha256:00\nno-such-package==1 \\\n")
    finding = doctor.packages(lock)
    assert finding.verdict == "bad"
    assert "numpy" in finding.found
    assert "no-such-package missing" in finding.found
    assert finding.remedy == "make setup"


def test_windows_can_be_left_out_of_what_starts() -> None:
    settings = configuration.load()
    everything = set(usual(settings.model_copy(update={"windows": True})))
    assert everything == set(services.NAMES)
    assert everything - set(usual(settings.model_copy(update={"windows": False}))) == {"windows"}


def test_no_two_servers_are_given_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    few = iter(itertools.cycle([30_000, 30_000, *range(30_000, 30_000 + len(ports.DEFAULTS))]))
    monkeypatch.setattr("random.randrange", lambda low, high: next(few))
    chosen, _ = ports.choose("random", {})
    assert len(set(chosen.values())) == len(ports.DEFAULTS)


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "[2001:db8::7]"), ("vigil.example", "vigil.example"),
    ],
)  # fmt: skip
def test_a_service_is_asked_where_it_listens(tmp_path: Path, bind: str, host: str) -> None:
    settings = configuration.load(home=tmp_path, bind=bind, internal_bind=bind)
    assert ports.reached_at(settings, "api") == ports.reached_at(settings, "serving") == host
    assert ports.reached_at(settings, "postgres") == "127.0.0.1"


@pytest.mark.parametrize(("gib", "mib"), [(1, 256), (6, 256), (12, 1024), (24, 2560), (256, 4096)])
def test_postgres_gets_buffers_by_the_memory_there_is(gib: int, mib: int) -> None:
    assert postgres.buffers(gib << 30) == mib << 20
