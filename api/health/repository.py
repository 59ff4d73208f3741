"""Whether what this service needs answers; each check blocks for at most `TIMEOUT_S`."""

from collections.abc import Callable
from typing import Any

import httpx

from api.postgres import Database
from feature_repo.conditions import CURRENT
from feature_repo.errors import StoreUnavailable

TIMEOUT_S = 2.0

Check = Callable[[], str]  # "up", or what is wrong in few words


def postgres(database: Database) -> Check:
    def check() -> str:
        try:
            database.rows("SELECT FROM decisions LIMIT 0")
        except StoreUnavailable:
            return "down"
        return "up"

    return check


def conditions(database: Database) -> Callable[[], list[dict[str, Any]]]:
    """What jobs and switches say is amiss; nothing where PostgreSQL is away, which its own check says."""

    def ask() -> list[dict[str, Any]]:
        try:
            return database.rows(CURRENT)
        except StoreUnavailable:
            return []

    return ask


def http(url: str) -> Check:
    """Up where `url` answers 200."""

    def check() -> str:
        try:
            response = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
        except httpx.HTTPError:
            return "down"
        return "up" if response.status_code == 200 else "not ready"

    return check
