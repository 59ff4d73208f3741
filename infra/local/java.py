"""Find the JDK that runs Kafka, Elasticsearch, Spark and Ivy."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from infra.local.account import Account, can_enter

MINIMUM = 21  # Elasticsearch 9 needs 21
PROVEN = (25, 21)  # long-term releases all three servers support (2026-01); preferred over anything newer
SYSTEM_FOLDERS = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/usr/local/java/*",
    "/opt/java/*",
    "/opt/*jdk*",
    "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
)
USER_FOLDERS = (".sdkman/candidates/java/*", ".jdks/*")


@dataclass(frozen=True)
class Jdk:
    home: Path
    version: int

    @property
    def java(self) -> Path:
        return self.home / "bin" / "java"

    @property
    def full(self) -> bool:
        """A JDK, not a bare runtime."""
        return (self.home / "bin" / "javac").exists()


class NoJdk(DependencyDown):
    code = "NO_JDK"

    def __init__(self, found: list[Jdk], account: Account | None) -> None:
        names = ", ".join(f"{_kind(jdk)} {jdk.version} at {jdk.home}" for jdk in found) or "none"
        reach = f" that the account '{account.name}' can enter" if account else ""
        super().__init__(
            "Java",
            "this machine",
            f"a full JDK {MINIMUM} or newer{reach} is needed, found: {names}",
            remedy="install one (Debian and Ubuntu: openjdk-21-jdk-headless or temurin-25-jdk; Fedora: "
            "java-25-openjdk-devel; macOS: openjdk@25) or point JAVA_HOME at it",
        )


def _kind(jdk: Jdk) -> str:
    return "JDK" if jdk.full else "runtime"


def find(settings: Settings, account: Account | None = None) -> Jdk:
    """The best JDK: 25, then 21, then the newest; raises NoJdk naming what was found."""
    found = installed(settings)
    fit = [j for j in found if j.version >= MINIMUM and j.full and can_enter(j.home / "bin", account)]
    if not fit:
        raise NoJdk(found, account)
    return max(fit, key=lambda jdk: (jdk.version in PROVEN, jdk.version))


def installed(settings: Settings) -> list[Jdk]:
    """Every Java found, newest first, each once."""
    candidates = [settings.java_home] if settings.java_home else []
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path).resolve().parents[1])
    for pattern in SYSTEM_FOLDERS:
        candidates.extend(Path("/").glob(pattern.removeprefix("/")))
    for pattern in USER_FOLDERS:
        candidates.extend(Path.home().glob(pattern))
    homes = {candidate.resolve() for candidate in candidates if (candidate / "bin" / "java").exists()}
    found = [Jdk(home, version) for home in homes if (version := _version(home))]
    return sorted(found, key=lambda jdk: (-jdk.version, str(jdk.home)))


def _version(home: Path) -> int | None:
    """Major version from the `release` file every JDK since 7 carries; reading it costs no process."""
    try:
        text = (home / "release").read_text()
    except OSError:
        return None
    match = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE)
    return int(match.group(1)) if match else None
