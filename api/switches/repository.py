"""Switches in PostgreSQL."""

from typing import Any

from api.postgres import Database
from feature_repo.switches import CURRENT, HISTORY, THROW


class SwitchRepository:
    """Reads with the reader's role, writes with the writer's; blocks; raises StoreUnavailable."""

    def __init__(self, reading: Database, writing: Database) -> None:
        self._reading = reading
        self._writing = writing

    def standing(self) -> list[dict[str, Any]]:
        return self._reading.rows(CURRENT)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        return self._reading.rows(HISTORY, {"limit": limit})

    def throw(self, name: str, state: str, actor: str, reason: str) -> None:
        self._writing.rows(THROW, {"name": name, "state": state, "actor": actor, "reason": reason})
