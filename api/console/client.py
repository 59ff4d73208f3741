"""What the pages ask of the query service: its own paths, in this process, as the browser that is being answered."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from api.console.door import cookie, current
from api.gate import COUNTED

ZONE = "vigil_zone"  # cookie: the browser's time zone, by its name in the IANA database
TIMEOUT_S = 15.0
CARRIED = (b"authorization", b"host")


class Refused(Exception):
    """The service's problem, in place of an answer."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail", ""))
        self.problem = problem

    @property
    def code(self) -> str:
        return str(self.problem.get("code", ""))

    @property
    def passing(self) -> bool:
        """Too many requests, or something is away: the same question may be answered later."""
        status = int(self.problem.get("status", 500))
        return status >= 500 or status == 429


@dataclass(frozen=True)
class Reader:
    """Who looks at the page: where their clock stands, and by which name the audit log will know them."""

    zone: tzinfo = UTC
    actor: str = ""
    signed_in: bool = False


class Client:
    """Raises Refused for everything but success."""

    def __init__(self, service: ASGIApp) -> None:
        async def as_browser(scope: Connection, receive: Receive, send: Send) -> None:
            asked = current.get()
            carried = [header for header in asked["headers"] if header[0] in CARRIED]
            own = [header for header in scope["headers"] if header[0] not in CARRIED]
            known = {name: asked.get(name) for name in ("client", "server", "scheme", COUNTED)}
            await service({**scope, **known, "headers": own + carried}, receive, send)

        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=as_browser, raise_app_exceptions=False),
            base_url="http://console",
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    async def get(self, path: str, **parameters: Any) -> Any:
        given = {name.rstrip("_"): value for name, value in parameters.items() if value not in (None, "")}
        return self._sound(await self._http.get(path, params=given))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._sound(await self._http.post(path, json=body))

    def _sound(self, answer: httpx.Response) -> Any:
        body = answer.json()
        if answer.is_success:
            return body
        raise Refused(body)


async def together(*questions: Awaitable[Any]) -> list[Any]:
    """All answers; in place of one that was refused its Refused."""
    found = await asyncio.gather(*questions, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, Refused):
            raise one
    return found


def reader() -> Reader:
    """Of the request that is being answered."""
    asked = current.get()
    return Reader(zone(cookie(asked, ZONE)), asked.get("vigil.actor", ""), "vigil.key" in asked)


def zone(name: str) -> tzinfo:
    """A time zone by its name; UTC where there is none of it."""
    try:
        return ZoneInfo(unquote(name)) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def moment(text: str) -> datetime:
    """An RFC 3339 time of the service."""
    return datetime.fromisoformat(text)
