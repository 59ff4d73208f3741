"""Around every request: its id, one log line without personal data, and what is counted."""

import json
import logging
import sys
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.headers import protect
from feature_repo.problem import REQUEST_ID, request_id

log = logging.getLogger("vigil.api.access")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
NO_ROUTE = "none"  # label of paths nobody serves: they are the client's text and without end


class Traffic:
    """ASGI middleware, outermost. Logs the route, never the path or the query: both can name a person."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "vigil_api_requests", "requests answered", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "vigil_api_seconds", "time until the answer began", ["route"], buckets=SECONDS, registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = request_id(Headers(scope=scope).get(REQUEST_ID))
        scope["vigil.request_id"] = identity
        scope["vigil.headers"] = [(REQUEST_ID.lower().encode(), identity.encode())]  # and the gate's
        started = time.perf_counter()
        status = 500  # what a client sees when nothing was sent
        answered = 0.0  # when the answer began: a stream goes on for as long as somebody reads it
        recorded = False

        def record() -> None:
            nonlocal recorded
            if not recorded:
                recorded = True
                now = time.perf_counter()
                self._record(scope, identity, status, now - started, (answered or now) - started)

        async def watched(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], time.perf_counter()
                message["headers"] = headers = list(message["headers"])
                protect(headers, scope)
            elif not message.get("more_body", False):
                record()  # before the last bytes leave: who has the answer finds its line and its count
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            record()

    def _record(self, scope: Scope, identity: str, status: int, seconds: float, to_answer: float) -> None:
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        method = scope["method"] if route != NO_ROUTE else NO_ROUTE
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(to_answer)
        log.info(
            json.dumps(
                {
                    "request_id": identity,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 2),
                    "key": scope.get("vigil.key"),
                }
            )
        )


def log_to_stdout() -> None:
    """The service's log, once per process: what a supervisor collects."""
    ours = logging.getLogger("vigil")
    if not ours.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address it calls
