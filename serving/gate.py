"""What every request to the model service's port passes first: content type, path, method, request id.

BentoML brings routes of its own and answers bodies in several formats, pickle among them. The gate lets
through the routes named here and the content type each of them takes; all else is refused before any
code behind it sees the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feature_repo.errors import MediaTypeUnsupported, MethodNotAllowed, PathUnknown, VigilError
from feature_repo.problem import MEDIA_TYPE, REQUEST_ID, encode, problem, request_id

BINARY = "application/octet-stream"
JSON = "application/json"


@dataclass(frozen=True)
class Rule:
    """What one path takes; `content_type` is empty where it takes no body."""

    methods: tuple[str, ...]
    content_type: str = ""


# Every path of the port; livez, healthz and readyz are BentoML's own.
RULES: dict[str, Rule] = {
    "/score": Rule(("POST",), BINARY),
    "/detect": Rule(("POST",), JSON),
    "/explain": Rule(("POST",), JSON),
    "/activity": Rule(("GET",)),
    "/models": Rule(("GET",)),
    "/live": Rule(("GET",)),
    "/ready": Rule(("GET",)),
    "/metrics": Rule(("GET",)),
    "/livez": Rule(("GET",)),
    "/healthz": Rule(("GET",)),
    "/readyz": Rule(("GET",)),
}


class Gate:
    """ASGI middleware around the whole of BentoML's application."""

    def __init__(self, app: ASGIApp, rules: Mapping[str, Rule] = RULES) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # nothing here speaks WebSocket
        headers = Headers(scope=scope)
        identity = request_id(headers.get(REQUEST_ID))
        scope["vigil.request_id"] = identity

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = identity
            await send(message)

        try:
            self._check(scope["path"], scope["method"], headers.get("content-type"))
        except VigilError as error:
            await send_problem(error, identity, send_with_id)
            return
        await self._app(scope, receive, send_with_id)

    def _check(self, path: str, method: str, content_type: str | None) -> None:
        """The content type comes first, so that a pickle is refused as such wherever it is sent."""
        rule = self._rules.get(path)
        expected = rule.content_type if rule is not None else ""
        offered = None if content_type is None else content_type.split(";")[0].strip().lower()
        if offered is not None and offered != expected:
            raise MediaTypeUnsupported(expected)
        if rule is None:
            raise PathUnknown
        if method not in rule.methods:
            raise MethodNotAllowed(list(rule.methods))
        if expected and offered is None:
            raise MediaTypeUnsupported(expected)


async def send_problem(error: VigilError, identity: str, send: Send) -> None:
    """Answer with the error; the caller has not started an answer."""
    body = encode(problem(error, identity))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
