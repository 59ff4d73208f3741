"""The console put together: a Dash application of its own behind the door."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, set_props
from dash.backends._fastapi import FastAPIDashServer
from fastapi import FastAPI
from starlette.types import ASGIApp

from api.console import frame, health, live, models, payment, payments
from api.console.client import Client, Reader, Refused, reader
from api.console.door import PATH, Door, current

Page = tuple[str, frame.Part]  # title and content
Opener = Callable[[Client, Reader, str], Awaitable[Page]]

FIXED: dict[str, Opener] = {
    PATH: live.page,
    f"{PATH}/payments": payments.page,
    f"{PATH}/models": models.page,
    f"{PATH}/health": health.page,
}

log = logging.getLogger("vigil.api")


class Pages(FastAPIDashServer):  # type: ignore[misc]  # dash is not looked into
    """Dash's pages without its WebSocket, which no gate would be asked about, and without a document of its own."""

    websocket_capability = False

    @staticmethod
    def create_app(name: str = "", config: dict[str, Any] | None = None) -> FastAPI:
        return FastAPI(openapi_url=None)


def create(service: ASGIApp) -> Door:
    """The console of a query service."""
    client = Client(service)
    dash = Dash(
        "api.console",
        backend=Pages,
        url_base_pathname=f"{PATH}/",
        assets_folder=str(Path(__file__).parent / "assets"),
        pages_folder="",
        use_pages=False,
        index_string=frame.INDEX,
        title="Vigil",
        update_title="",
        suppress_callback_exceptions=True,
        add_log_handler=False,
        on_error=failed,
    )
    dash.layout = frame.shell

    @dash.callback(
        Output("main", "children"), Output("title", "data"), Input("url", "pathname"), State("url", "search")
    )
    async def open_page(path: str, search: str) -> tuple[frame.Part, str]:
        title, content = await opened(client, reader(), path, search or "")
        return content, f"{title} · Vigil"

    for name, inputs, output in (
        ("titled", [Input("title", "data")], Output("titled", "data")),
        ("here", [Input("url", "pathname"), State({"page": ALL}, "id")], Output({"page": ALL}, "className")),
    ):
        dash.clientside_callback(ClientsideFunction("vigil", name), output, *inputs)
    for part in (live, payments, payment, models, health):
        part.register(dash, client)
    return Door(dash.server)


def failed(error: Exception) -> None:
    """An error nobody foresaw: the log has it, and the reader its id."""
    request = current.get().get("vigil.request_id", "")
    log.error("%s a page failed", request, exc_info=error)
    said = {"detail": "this page has failed, the log has it under this request id", "request_id": request}
    set_props("mishap", {"children": frame.trouble(Refused(said))})


async def opened(client: Client, who: Reader, path: str, search: str) -> Page:
    """The page at a path below PATH; for what the service refuses a page that says so."""
    path = path.rstrip("/")
    identity = path.removeprefix(f"{PATH}/payments/")
    opener: Any = FIXED.get(path)
    if opener is None and identity != path:
        opener, search = payment.page, unquote(identity)
    if opener is None:
        return "Not found", frame.card("There is no such page", frame.empty("Use the links above."))
    try:
        title, content = await opener(client, who, search)
    except Refused as refusal:
        return "Refused", frame.card("This cannot be shown", frame.trouble(refusal))
    return title, content
