"""Readiness of the service: is everything it needs there, and what does not do its whole work? And all servers."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from api.health.repository import Check
from api.health.schemas import Degraded, Server, Servers
from feature_repo.conditions import MEANS

FRESH_S = 1.0  # anybody may ask for readiness, as often as they like
ANSWER_S = 6.0  # for all checks together: one that hangs is a server that does not answer


class HealthService:
    """`checks` are of what this service needs, `others` of what the rest of the road does."""

    def __init__(
        self,
        checks: dict[str, Check],
        conditions: Callable[[], list[dict[str, Any]]],
        others: dict[str, Check] | None = None,
    ) -> None:
        self._checks = checks
        self._conditions = conditions
        self._others = others or {}
        self._asking = asyncio.Lock()
        self._told: tuple[float, tuple[dict[str, str], list[dict[str, Any]]]] | None = None

    async def readiness(self) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """State of each store and service by name, and the conditions, of FRESH_S ago at most."""
        async with self._asking:
            if self._told is None or time.monotonic() - self._told[0] > FRESH_S:
                self._told = time.monotonic(), await self._asked(self._checks)
            return self._told[1]

    async def servers(self) -> Servers:
        """Every server, this one included."""
        states, found = await self._asked(self._checks | self._others)
        items = [
            Server(
                name=name,
                state=states.get(name, "up"),
                means=means,
                remedy=f"vigil logs {name}, vigil restart {name}",
            )
            for name, means in MEANS.items()
            if name in states or name == "api"
        ]
        return Servers(items=items, degraded=[Degraded(**one) for one in found])

    async def _asked(self, checks: dict[str, Check]) -> tuple[dict[str, str], list[dict[str, Any]]]:
        *states, found = await asyncio.gather(
            *(_within(check, "down") for check in checks.values()), _within(self._conditions, [])
        )
        return dict(zip(checks, states, strict=True)), found


async def _within(ask: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), ANSWER_S)
    except TimeoutError:
        return otherwise
