"""The model service in this process, without BentoML, MLflow, Redis or Kafka: for tests that need no server."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import uvicorn
from starlette.types import ASGIApp

from feature_repo import state
from feature_repo.errors import DependencyDown, StoreUnavailable
from feature_repo.settings import Settings, load
from feature_repo.snapshot import Snapshot
from feature_repo.state import States
from serving.detect import StateReader
from serving.endpoints import create_app
from serving.gate import Gate
from serving.source import CHAMPION, Registered
from serving.worker import Worker
from tests.cases import tiny_model
from tests.cases.tiny_model import COLUMNS

Columns = tuple[str, ...]


class FolderSource:
    """A registry whose versions are files: `publish` is what training and promotion do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.aliases: dict[str, Registered] = {}
        self.down = False
        self.fetched: list[str] = []

    def publish(
        self, version: str, scale: float = 0.1, spoilt: bool = False, alias: str = CHAMPION, columns: Columns = COLUMNS
    ) -> Registered:
        sha256 = tiny_model.write(self.path(version), columns, scale=scale)
        if spoilt:
            self.path(version).write_bytes(b"garbage")
        self.aliases[alias] = Registered(version, sha256)  # last: a worker may be polling
        return self.aliases[alias]

    def path(self, version: str) -> Path:
        return self.folder / f"{version}.onnx"

    def named(self, alias: str) -> Registered | None:
        if self.down:
            raise DependencyDown("MLflow", "here", "switched off by the test")
        return self.aliases.get(alias)

    def fetch(self, registered: Registered, to: Path) -> None:
        if self.down:
            raise DependencyDown("MLflow", "here", "switched off by the test")
        self.fetched.append(registered.version)
        shutil.copyfile(self.path(registered.version), to)


class MemoryStates:
    """User states by user hash; `down` is Redis being away."""

    def __init__(self) -> None:
        self.records: dict[int, States] = {}
        self.down = False

    @property
    def ready(self) -> bool:
        return True

    def read(self, user_id: str, user_hash: np.uint64) -> States:
        if self.down:
            raise StoreUnavailable("redis", "here", "switched off by the test")
        found = self.records.get(int(user_hash))
        return state.empty(np.array([user_hash])) if found is None else found.copy()


class NoMerchants:
    """A store in which no snapshot was ever published."""

    def newest(self) -> Snapshot | None:
        return None


def settings_for(home: Path, **overrides: object) -> Settings:
    """Settings whose servers nobody runs: port 1 refuses at once."""
    nowhere: dict[str, object] = {
        "home": home,
        "redis_url": "redis://127.0.0.1:1/0",
        "kafka_bootstrap": "127.0.0.1:1",
        "postgres_reader_dsn": "postgresql://vigil_reader@127.0.0.1:1/vigil",
        "elasticsearch_url": "http://127.0.0.1:1",
        "mlflow_url": "http://127.0.0.1:1",
        "serving_url": "http://127.0.0.1:1",
        "alias_poll_s": 0.05,
    }
    return load(**{**nowhere, **overrides})


def worker_for(settings: Settings, source: FolderSource, states: StateReader, now: datetime | None = None) -> Worker:
    """A worker over these; `now` stops its clock."""
    return Worker(
        settings,
        states=lambda _: states,
        source=lambda _: source,
        clock=lambda: now or datetime.now(UTC),
        merchants=lambda _: NoMerchants(),
    )


@contextmanager
def listening(worker: Worker) -> Iterator[str]:
    """Start the worker and serve its port, the gate included; gives the address."""
    worker.start()
    try:
        with running(Gate(create_app(worker))) as url:
            yield url
    finally:
        worker.stop()


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of this machine; gives the address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()  # who connects before the server is up waits instead of being refused
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
