"""The BentoML service: `bentoml serve serving.service:VigilService`.

BentoML imports this module in its supervisor and in every worker, so it is an entry point: the settings
are read here. Nothing is opened, and the model runtime (150 MB, 1.5 s) is not imported, before BentoML
makes the instance in a worker.
"""

import logging
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from feature_repo.settings import Settings, load
from serving.gate import Gate

if TYPE_CHECKING:
    from serving.worker import Worker


SWITCH_S = 0.0005  # by default a request that comes in while a payment is detected waits 5 ms for the interpreter


class Application:
    """One worker's application, as BentoML mounts it: empty in the supervisor, which answers nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.worker: Worker
        self._app: ASGIApp

    def start(self) -> None:
        from serving.endpoints import create_app
        from serving.states import FeastStates
        from serving.worker import Worker

        logging.getLogger("vigil").setLevel(logging.INFO)
        sys.setswitchinterval(SWITCH_S)
        self.worker = Worker(self._settings, FeastStates)
        self._app = create_app(self.worker)
        self.worker.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


settings = load()
application = Application(settings)


@bentoml.service(
    name="vigil",
    workers=settings.serving_workers,
    http={"host": settings.internal_bind, "port": urlsplit(settings.serving_url).port or 3000},
    traffic={"timeout": 30},
    metrics={"enabled": False},  # ours are at /metrics; BentoML's label every path anyone asks for
    tracing={"excluded_urls": ".*"},  # nobody collects spans, which each request paid for
    logging={"access": {"enabled": False}},  # the stream calls tens of times a second
    # A worker is one core's worth: BLAS threads that spin for each other double the cost of a batch.
    envs=[{"name": "OPENBLAS_NUM_THREADS", "value": "1"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
)
@bentoml.asgi_app(application, path="/")
class VigilService:
    """Scores payments with the champion of the model registry."""

    def __init__(self) -> None:
        application.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        application.worker.stop()

    def __is_ready__(self) -> bool:
        return not application.worker.missing

    def __is_alive__(self) -> bool:
        return application.worker.alive


VigilService.add_asgi_middleware(Gate)  # type: ignore[attr-defined]  # a Service by now
