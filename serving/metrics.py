"""What a serving worker counts; `GET /metrics` shows the sum over all workers of the service."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Made once per process: BentoML has told prometheus_client by then where workers share their counts."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.rows = Counter("vigil_score_rows", "payments scored over /score", ["model_version"], registry=registry)
        self.score_seconds = Histogram(
            "vigil_score_seconds", "time to answer /score", buckets=SECONDS, registry=registry
        )
        self.detect_seconds = Histogram(
            "vigil_detect_seconds", "time to answer /detect", buckets=SECONDS, registry=registry
        )
        self.refused = Counter("vigil_serving_refused", "requests refused, by code", ["code"], registry=registry)
        self.champion = Gauge(
            "vigil_serving_champion",
            "version that serves",
            multiprocess_mode="liveall",
            registry=registry,
        )
        self.registry_reachable = Gauge(
            "vigil_serving_registry_reachable",
            "1 where the last look at the model registry succeeded",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.champion_refused = Gauge(
            "vigil_serving_champion_refused",
            "1 while the version the alias names is refused and an older one serves",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.challenger_refused = Gauge(
            "vigil_serving_challenger_refused",
            "1 while the version that alias `challenger` names is refused and nothing is scored beside the champion",
            multiprocess_mode="livemax",
            registry=registry,
        )

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        shared = CollectorRegistry()
        try:
            MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        except ValueError:  # a process on its own shares no folder
            shared = self._registry
        return generate_latest(shared), CONTENT_TYPE_LATEST
