"""The small files of a running stack under `$VIGIL_HOME`: ports, secrets, addresses, wishes and state.

Each is replaced at once, so a reader never sees half of one.
"""

import fcntl
import json
import os
import secrets as entropy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import AlreadyRunning
from feature_repo.settings import Settings
from infra.local.ports import HOST, Ports, reached_at

ROLES = ("postgres", "vigil_migrator", "vigil_writer", "vigil_reader", "vigil_mlflow")


@dataclass(frozen=True)
class Files:
    home: Path

    @property
    def stack_env(self) -> Path:
        return self.home / "stack.env"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.home / "run" / "supervisor.lock"

    @property
    def command_lock(self) -> Path:
        """Held by the command that is starting or stopping the stack."""
        return self.home / "run" / "command.lock"

    def log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    # ---- ports and secrets ------------------------------------------------------------------

    def ports(self) -> Ports:
        return {str(name): int(port) for name, port in self._read("ports.json").items()}

    def write_ports(self, ports: Ports) -> None:
        self._write("ports.json", ports)

    def secrets(self) -> dict[str, str]:
        """Passwords of the database roles, made at first use and kept: the servers' data knows them."""
        known = self._read("secrets.json")
        made = {role: known.get(role) or entropy.token_hex(16) for role in ROLES}
        if made != known:
            self._write("secrets.json", made)
        return made

    # ---- what is wanted, what is so ---------------------------------------------------------

    def wanted(self) -> dict[str, int]:
        """Services that should run, each with its restart generation."""
        return {str(name): int(turn) for name, turn in self._read("wanted.json").items()}

    def change_wanted(self, change: Callable[[dict[str, int]], None]) -> None:
        with locked(self.home / "run" / "wanted.lock", wait=True):
            wanted = self.wanted()
            change(wanted)
            self._write("wanted.json", wanted)

    def state(self) -> dict[str, Any]:
        return self._read("state.json")

    def write_state(self, state: dict[str, Any]) -> None:
        self._write("state.json", state)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.home / "run" / name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        replace(self.home / "run" / name, json.dumps(content, indent=1))


def replace(path: Path, text: str) -> None:
    """Write a file readable by its owner only, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    scratch.replace(path)


@contextmanager
def locked(path: Path, *, wait: bool = False, what: str = "another command") -> Iterator[None]:
    """Hold a lock file that names its holder; raises AlreadyRunning at once unless told to wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise AlreadyRunning(what, int(file.read() or 0)) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def stack_env(settings: Settings, ports: Ports, secrets: dict[str, str], partitions: int) -> str:
    """The `VIGIL_*` lines every command reads: addresses, the roles' passwords inside their DSNs, partitions."""

    def dsn(role: str) -> str:
        return f"postgresql://{role}:{secrets[role]}@{HOST}:{ports['postgres']}/vigil"

    values = {
        "KAFKA_BOOTSTRAP": f"{HOST}:{ports['kafka']}",
        "POSTGRES_DSN": dsn("vigil_writer"),
        "POSTGRES_READER_DSN": dsn("vigil_reader"),
        "POSTGRES_MIGRATOR_DSN": dsn("vigil_migrator"),
        "REDIS_URL": f"redis://{HOST}:{ports['redis']}/0",
        "ELASTICSEARCH_URL": f"http://{HOST}:{ports['elasticsearch']}",
        "MLFLOW_URL": f"http://{HOST}:{ports['mlflow']}",
        "SERVING_URL": f"http://{reached_at(settings, 'serving')}:{ports['serving']}",
        "API_URL": f"http://{reached_at(settings, 'api')}:{ports['api']}",
        "SPARK_UI_PORT": str(ports["spark_ui"]),
        "STREAM_METRICS_PORT": str(ports["stream_metrics"]),
        "INDEXER_METRICS_PORT": str(ports["indexer_metrics"]),
        "LIFECYCLE_METRICS_PORT": str(ports["lifecycle_metrics"]),
        "PARTITIONS": str(partitions),
    }
    lines = "".join(f"VIGIL_{name}={value}\n" for name, value in values.items())
    return "# Written by `vigil up`; holds passwords, keep it to yourself.\n" + lines
