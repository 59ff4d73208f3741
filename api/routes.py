"""Routes that cannot be made without saying who may use them.

routes = Router(tags=["keys"])

@routes.get("/keys")
@needs(Scope.ADMIN)
def list_keys() -> Keys: ...
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from api.gate import Gate
from api.scopes import ANY_KEY, PUBLIC, Needs, Scope

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class ScopeUndeclared(TypeError):
    """A mistake in the code, found when the application is put together."""

    def __init__(self, path: str | None) -> None:
        super().__init__(f"{path} declares no scope: make it with api.routes.Router, and @needs below its path")


def needs(scope: Scope | None) -> Callable[[Endpoint], Endpoint]:
    """Only for keys with this scope; `PUBLIC` for everybody. Stands below the path."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.needs = scope  # type: ignore[attr-defined]  # read by GuardedRoute alone
        return endpoint

    return declare


class GuardedRoute(APIRoute):
    """Asks the gate before anything of a request is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not hasattr(endpoint, "needs"):
            raise ScopeUndeclared(path)
        self.needs: Scope | None = endpoint.needs
        super().__init__(path, endpoint, **options)

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        gate: Gate = scope["app"].state.gate
        await gate(self.needs, super().handle, scope, receive, send)


class GuardedPart(BaseRoute):
    """All below a path, answered by an application of its own, which is no part of the OpenAPI document.

    The gate asks for a key first, whatever that may do, but for the paths `open_to_all`, with what
    is below those that end in a slash. What the application
    shows it has to ask of this service with that key.
    """

    def __init__(self, path: str, app: ASGIApp, open_to_all: Sequence[str]) -> None:
        self.path = path
        self._app = app
        self._open = tuple(open_to_all)
        self._below = tuple(path for path in open_to_all if path.endswith("/"))

    def matches(self, scope: Connection) -> tuple[Match, Connection]:
        below = scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self.path}/")
        return (Match.FULL if below else Match.NONE), {}

    def needs(self, path: str) -> Needs:
        return PUBLIC if path in self._open or path.startswith(self._below) else ANY_KEY

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        scope["route"] = self
        gate: Gate = scope["app"].state.gate
        await gate(self.needs(scope["path"]), self._app, scope, receive, send)


class Router(APIRouter):
    """A router of guarded routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=GuardedRoute, **options)


async def actor(request: Request) -> str:
    name: str = request.scope["vigil.actor"]
    return name


Actor = Annotated[str, Depends(actor)]  # who asks, in the audit log's words


def declared(app: FastAPI) -> dict[tuple[str, str], Scope | None]:
    """What each (method, path) of the OpenAPI document needs.

    Raises ScopeUndeclared for a route that would be answered unasked: all but the document and a GuardedPart, which
    asks for a key itself.
    """
    found: dict[tuple[str, str], Scope | None] = {}
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if context.path == app.openapi_url or isinstance(route, GuardedPart):
            continue
        if not isinstance(route, GuardedRoute):
            raise ScopeUndeclared(context.path)
        if route.include_in_schema:
            found |= {(method, str(context.path_format)): route.needs for method in context.methods or ()}
    return found
