"""Readiness of the service: is everything it needs there?"""

import asyncio

from api.health.repository import Check


class HealthService:
    def __init__(self, checks: dict[str, Check]) -> None:
        self._checks = checks

    async def readiness(self) -> dict[str, str]:
        """State of each store and service by name, asked for at the same time."""
        states = await asyncio.gather(*(asyncio.to_thread(check) for check in self._checks.values()))
        return dict(zip(self._checks, states, strict=True))
