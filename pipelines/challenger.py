"""The version on trial: alias `challenger`, which the stream scores beside the champion.

It decides nothing, so no gate is asked; but it must be sound, and every move is an audit row.
"""

from dataclasses import asdict, dataclass
from typing import Any

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines import requests
from pipelines.promote import require_sound
from pipelines.requests import Cursor, Request
from pipelines.versions import CHALLENGER, CHAMPION, Versions


@dataclass(frozen=True)
class Challenge:
    """What alias `challenger` names now and named before; `changed` is false where that is the same."""

    challenger: str | None
    before: str | None
    changed: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def set_challenger(settings: Settings, wanted: str, actor: str) -> Challenge:
    """Put `wanted` (a version, `latest` or an alias) on trial, in place of whatever was.

    Raises BadConfiguration for an unknown version and for the champion, PromotionRefused for an unsound one,
    StoreUnavailable, DependencyDown.
    """
    versions = Versions(settings)
    version = versions.resolve(wanted)
    require_sound(versions, version)
    return _move(settings, versions, version, actor)


def unset_challenger(settings: Settings, actor: str) -> Challenge:
    """End the trial. Raises StoreUnavailable, DependencyDown."""
    return _move(settings, Versions(settings), None, actor)


def answer(settings: Settings, versions: Versions, cursor: Cursor, request: Request) -> None:
    """Do what a request asks, in the transaction that holds it. Raises what `set_challenger` does."""
    version = None if request.version is None else versions.resolve(request.version)
    if version is not None:
        require_sound(versions, version)
    done = _moved(settings, versions, cursor, version, request.actor, request)
    outcome = requests.MOVED if done.changed else requests.UNCHANGED
    requests.finish(cursor, request.id, outcome, version=version, aliases_after=versions.aliases())


def _move(settings: Settings, versions: Versions, version: str | None, actor: str) -> Challenge:
    with requests.connected(settings) as connection, connection, connection.cursor() as cursor:
        return _moved(settings, versions, cursor, version, actor)


def _moved(
    settings: Settings,
    versions: Versions,
    cursor: Cursor,
    version: str | None,
    actor: str,
    request: Request | None = None,
) -> Challenge:
    """The alias after its audit row, one mover of any alias at a time.

    Where an earlier try of the request moved the alias and died before its audit row was kept, it is written now.
    """
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (requests.MOVE_LOCK,))
    aliases = versions.aliases()
    before = aliases.pop(CHALLENGER, None)
    if version is not None and version == aliases.get(CHAMPION):
        raise BadConfiguration(f"version {version} is the champion: it cannot challenge itself")
    if version == before and request is not None and request.tries > 1 and request.aliases_before is not None:
        before = request.aliases_before.get(CHALLENGER)
    if version == before:
        return Challenge(version, before, changed=False)
    was = aliases | ({CHALLENGER: before} if before else {})
    now = aliases | ({CHALLENGER: version} if version else {})
    requests.audit(cursor, actor, CHALLENGER, settings.model_name, was, now, request.id if request else None)
    if version is None:
        versions.clear(CHALLENGER)
    else:
        versions.point(CHALLENGER, version)
    return Challenge(version, before, changed=True)
