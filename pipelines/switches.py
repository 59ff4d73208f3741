"""Switches of the stream as a person throws them, and what keeps the system from its whole work."""

from typing import Any

from psycopg2.extras import RealDictCursor

from feature_repo import conditions, switches
from feature_repo.errors import BadConfiguration, StoreUnavailable
from feature_repo.settings import Settings
from pipelines.requests import connected

Row = dict[str, Any]


def throw(settings: Settings, name: str, state: str, actor: str, reason: str) -> bool:
    """Set a switch, with its audit row; False where it stood so already. Raises BadConfiguration, StoreUnavailable."""
    reason = " ".join(reason.split())
    if not reason or len(reason) > switches.MAX_REASON_CHARACTERS or not reason.isprintable():
        raise BadConfiguration(f"a reason has 1 to {switches.MAX_REASON_CHARACTERS} printable characters")
    values = {"name": name, "state": state, "actor": actor, "reason": reason}
    return bool(_rows(settings, switches.THROW, values))


def standing(settings: Settings) -> list[Row]:
    """How each switch stands, since when, by whom and why."""
    return _rows(settings, switches.CURRENT, {})


def history(settings: Settings, limit: int) -> list[Row]:
    """What was thrown, newest first."""
    return _rows(settings, switches.HISTORY, {"limit": limit})


def found(settings: Settings) -> list[Row]:
    """What keeps the system from its whole work, oldest first; nothing where PostgreSQL cannot say."""
    try:
        return _rows(settings, conditions.CURRENT, {})
    except StoreUnavailable:
        return []  # the caller looks at PostgreSQL itself as well


def _rows(settings: Settings, statement: str, values: Row) -> list[Row]:
    with connected(settings) as connection, connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(statement, values)
        return [dict(row) for row in cursor.fetchall()]
