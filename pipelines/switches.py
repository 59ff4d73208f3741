"""Switches of the stream as a person throws them."""

from typing import Any

from feature_repo import switches
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines.requests import rows

Row = dict[str, Any]


def throw(settings: Settings, name: str, state: str, actor: str, reason: str) -> bool:
    """Set a switch, with its audit row; False where it stood so already. Raises BadConfiguration, StoreUnavailable."""
    reason = " ".join(reason.split())
    if not reason or len(reason) > switches.MAX_REASON_CHARACTERS or not reason.isprintable():
        raise BadConfiguration(f"a reason has 1 to {switches.MAX_REASON_CHARACTERS} printable characters")
    values = {"name": name, "state": state, "actor": actor, "reason": reason}
    return bool(rows(settings, switches.THROW, values))


def standing(settings: Settings) -> list[Row]:
    """How each switch stands, since when, by whom and why."""
    return rows(settings, switches.CURRENT, {})


def history(settings: Settings, limit: int) -> list[Row]:
    """What was thrown, newest first."""
    return rows(settings, switches.HISTORY, {"limit": limit})
