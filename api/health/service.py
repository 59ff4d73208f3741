"""Readiness of the service: is everything it needs there, and what does not do its whole work?"""

import asyncio
from collections.abc import Callable
from typing import Any

from api.health.repository import Check

ANSWER_S = 6.0  # for all checks together: one that hangs is a server that does not answer


class HealthService:
    def __init__(self, checks: dict[str, Check], conditions: Callable[[], list[dict[str, Any]]]) -> None:
        self._checks = checks
        self._conditions = conditions

    async def readiness(self) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """State of each store and service by name, and the conditions, all asked for at the same time."""
        *states, found = await asyncio.gather(
            *(_within(check, "down") for check in self._checks.values()), _within(self._conditions, [])
        )
        return dict(zip(self._checks, states, strict=True)), found


async def _within(ask: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), ANSWER_S)
    except TimeoutError:
        return otherwise
