"""The BentoML service: `bentoml serve serving.service:VigilService`.

BentoML imports this module in its supervisor and in every worker, so it is an entry point: the settings
are read here, and nothing is opened before BentoML makes the instance in a worker.
"""

import logging
from urllib.parse import urlsplit

import bentoml

from feature_repo.settings import load
from serving.endpoints import RULES, create_app
from serving.gate import Gate
from serving.states import FeastStates
from serving.worker import Worker

settings = load()
worker = Worker(settings, FeastStates)
logging.getLogger("vigil").setLevel(logging.INFO)


@bentoml.service(
    name="vigil",
    workers=settings.serving_workers,
    http={"host": settings.bind, "port": urlsplit(settings.serving_url).port or 3000},
    traffic={"timeout": 30},
    metrics={"enabled": False},  # ours are at /metrics; BentoML's label every path anyone asks for
    logging={"access": {"enabled": False}},  # the stream calls tens of times a second
)
@bentoml.asgi_app(create_app(worker), path="/")
class VigilService:
    """Scores payments with the champion of the model registry."""

    def __init__(self) -> None:
        worker.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        worker.stop()

    def __is_ready__(self) -> bool:
        return not worker.missing

    def __is_alive__(self) -> bool:
        return worker.alive


VigilService.add_asgi_middleware(Gate, rules=RULES)  # type: ignore[attr-defined]  # a Service by now
