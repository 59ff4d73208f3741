"""One serving worker: the models it holds and the two threads that keep them and their report fresh."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_repo.activity import readable
from feature_repo.hashing import hash_texts
from feature_repo.recorder import Recorder
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from serving.detect import Detector, MerchantReader, StateReader
from serving.metrics import Metrics
from serving.registry import Registry
from serving.report import EVERY_S, Report
from serving.source import MlflowSource, Source

log = logging.getLogger("vigil.serving")

REDIS_TIMEOUT_S = 3.0  # one payment waits for it


class Worker:
    """Everything of one process; nothing runs and nothing is opened before `start`."""

    def __init__(
        self,
        settings: Settings,
        states: Callable[[Settings], StateReader],
        source: Callable[[Settings], Source] = lambda s: MlflowSource(s.mlflow_url, s.model_name),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        merchants: Callable[[Settings], MerchantReader] = lambda s: SnapshotStore(s.redis_url, REDIS_TIMEOUT_S),
    ) -> None:
        self.settings = settings
        self._states = states
        self._source = source
        self._clock = clock
        self._merchants = merchants
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self.metrics = Metrics()
        self.registry = Registry(self._source(self.settings), _cache(self.settings))
        self._report = Report(self.settings.redis_url, self.settings.serving_url)
        self._recorder = Recorder(self.settings, "vigil-serving")
        self._store = self._states(self.settings)
        merchants = self._merchants(self.settings)
        self.detector = Detector(self.settings, self.registry, self._store, merchants, self._clock)
        self._warmed = threading.Event()
        threading.Thread(target=self._warm, name="vigil-warm", daemon=True).start()
        self._run("models", self._follow, self.settings.alias_poll_s)
        self._run("report", self._tell, EVERY_S)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=EVERY_S)
        self._report.withdraw()
        self._recorder.close()

    @property
    def missing(self) -> list[str]:
        """What keeps this worker from being ready; empty when it is."""
        held = {
            "model": self.registry.held.champion is not None,
            "feature store": self._store.ready,
            "compiled code": self._warmed.is_set(),
        }
        return [name for name, there in held.items() if not there]

    @property
    def alive(self) -> bool:
        """A worker whose threads died would serve an old model forever: it wants a restart."""
        return all(thread.is_alive() for thread in self._threads)

    def challenger(self) -> str | None:
        """The version on trial, once every worker can score with it. Asks Redis."""
        held = self.registry.held.challenger
        return held.version if held is not None and self._report.everywhere(held.version) else None

    def activity(self, user_id: str) -> dict[str, Any] | None:
        """The readable aggregates of a user's state; None for a user nothing was folded in for. Asks the store.

        Raises StoreUnavailable, StateCorrupt.
        """
        states = self._store.read(user_id, hash_texts(pa.array([user_id]), "user_id")[0])
        return readable(states) if states["count"][0] else None

    def record(self, user_id: str, payload: bytes) -> str:
        """Produce a payment that was detected, for the stream to decide for good; answers where it lies.

        Waits for Kafka. Raises DependencyDown.
        """
        return self._recorder.record(self.settings.topic, [(user_id, payload)])[0]

    def _follow(self) -> None:
        if self.registry.refresh():
            self._tell()  # the stream may pin the new version now, not at the next round
        champion = self.registry.held.champion
        if champion is not None and champion.version.isdecimal():
            self.metrics.champion.set(int(champion.version))
        self.metrics.registry_reachable.set(self.registry.reachable)
        self.metrics.champion_refused.set(self.registry.refusal is not None)
        self.metrics.challenger_refused.set(self.registry.challenger_refusal is not None)

    def _warm(self) -> None:
        self.detector.warm()
        self._warmed.set()

    def _tell(self) -> None:
        self._report.write(self.registry.held)

    def _run(self, name: str, step: Callable[[], None], every_s: float) -> None:
        def loop() -> None:
            while not self._stopping.is_set():
                step()
                self._stopping.wait(every_s)

        thread = threading.Thread(target=loop, name=f"vigil-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)


def _cache(settings: Settings) -> Path:
    """Artefacts of one registered model: the last good one of another must not serve in its place."""
    return settings.home / "serving" / "models" / settings.model_name
