"""Which version serves: what is asked, the gate or the integrity checks before the move, the move, its audit row.

Every move is a request in PostgreSQL. A lifecycle worker does what is asked; where none runs, the command that
asked does it in its own process, by the same function.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg2

from feature_repo.errors import (
    ArtifactCorrupt,
    BadConfiguration,
    DependencyDown,
    FeatureSetMismatch,
    PromotionRefused,
    VigilError,
)
from feature_repo.settings import Settings
from pipelines import requests
from pipelines.requests import FAILED, MAX_TRIES, MOVED, REFUSED, UNCHANGED, Asked, Connection, Cursor, Request
from pipelines.versions import CHALLENGER, CHAMPION, PREVIOUS, Versions

ASK_AGAIN_S = 0.5

log = logging.getLogger("vigil.lifecycle")


@dataclass(frozen=True)
class Promotion:
    """What the aliases say now; `changed` is false where the version served already."""

    version: str
    previous: str | None
    changed: bool
    request: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def promote(
    settings: Settings, version: str, actor: str, *, override: str | None = None, data: str | None = None
) -> Promotion:
    """Make `version` (a number, `latest` or an alias) the champion, if the gate lets it; what served is `previous`.

    `data` is the data set the gate judges on (default: what it was trained on). `override` is the reason to go past
    failing checks that are not of integrity. Blocks for as long as the gate takes. Raises BadConfiguration for
    an unknown version or data set, PromotionRefused naming the failed checks.
    """
    return ask(settings, Asked(requests.PROMOTE, actor, version, data, override))


def rollback(settings: Settings, actor: str) -> Promotion:
    """Make `previous` the champion again; the two change places, so a rollback can be rolled back.

    No gate, integrity only. Raises BadConfiguration without a previous version, PromotionRefused where its
    artefact is unsound.
    """
    return ask(settings, Asked(requests.ROLLBACK, actor))


def ask(settings: Settings, asked: Asked) -> Promotion:
    """Write the request down and see it through: a worker's answer, or the work done here."""
    with requests.connected(settings) as connection:
        if asked.version is not None:
            asked = replace(asked, version=Versions(settings).resolve(asked.version))
        request_id = requests.add(connection, settings.model_name, asked)
        try:
            return answer(_seen_through(settings, connection, request_id))
        except BaseException:
            with suppress(psycopg2.Error):
                requests.cancel(connection, request_id)
            raise


def _seen_through(settings: Settings, connection: Connection, request_id: int) -> Request:
    """The request once it is finished, by a worker or here. Raises why it was not done, where that was here."""
    while True:
        request = requests.read(connection, request_id)
        if request.outcome is not None:
            return request
        worker = requests.worker_runs(connection, settings.model_name)
        if not worker and requests.begin(connection, settings.model_name, request_id):
            error = work(settings, connection, request_id)
            if error is not None:
                raise error
        else:
            time.sleep(ASK_AGAIN_S)


def answer(request: Request) -> Promotion:
    """Of a finished request. Raises PromotionRefused, RequestFailed."""
    if request.outcome == REFUSED:
        raise PromotionRefused(request.version or "", (request.report or {}).get("refusals", []))
    if request.outcome == FAILED:
        raise requests.RequestFailed(request)
    after = request.aliases_after or {}
    return Promotion(after[CHAMPION], after.get(PREVIOUS), request.outcome == MOVED, request.id)


def work(settings: Settings, connection: Connection, request_id: int) -> VigilError | None:
    """Do what a begun request asks and write down what became of it; the error is why it was not done.

    Request, audit row and aliases are one transaction: no move goes unrecorded. A worker that dies in it leaves
    an unfinished request and, at worst, aliases already moved; the next try moves the same ones again.
    """
    try:
        return _work(settings, connection, request_id)
    finally:
        with suppress(psycopg2.Error), connection, connection.cursor() as cursor:
            requests.release(cursor, request_id)


def _work(settings: Settings, connection: Connection, request_id: int) -> VigilError | None:
    with suppress(DependencyDown):  # the work itself then says so
        requests.note(connection, request_id, Versions(settings).aliases())
    with connection, connection.cursor() as cursor:
        request = requests.lock(cursor, request_id)
        if request is None:
            return None
        error: VigilError
        cursor.execute("SAVEPOINT begun")
        try:
            if request.tries > MAX_TRIES:
                raise VigilError(f"given up: whoever worked on it died, {MAX_TRIES} times")
            WORK[request.action](settings, Versions(settings), cursor, request)
            return None
        except VigilError as known:
            error = known
        except psycopg2.OperationalError:
            raise  # PostgreSQL is away: the request is free for the next try
        except Exception:
            log.exception("request %d", request_id)
            error = VigilError("an unexpected error; the log of whoever worked on it has it")
        cursor.execute("ROLLBACK TO SAVEPOINT begun")
        _give_up(cursor, request, error)
        return error


def _give_up(cursor: Cursor, request: Request, error: VigilError) -> None:
    log.warning("request %d: %s: %s", request.id, error.code, error)
    said: dict[str, Any] = {"code": error.code, "detail": str(error)}
    if not isinstance(error, PromotionRefused):
        requests.finish(cursor, request.id, FAILED, **said)
        return
    report = error.report if isinstance(error, Refused) else {"refusals": error.failures}
    requests.finish(cursor, request.id, REFUSED, version=error.version, report=report, **said, **_judged(report))


# ---- what can be asked ------------------------------------------------------------------------------


class Refused(PromotionRefused):
    """By the gate: `report` says everything it saw."""

    def __init__(self, version: str, report: dict[str, Any]) -> None:
        super().__init__(version, report["refusals"])
        self.report = report


def _promote(settings: Settings, versions: Versions, cursor: Cursor, request: Request) -> None:
    from pipelines.gate.run import judged  # seconds to import; a rollback needs none of it

    version = versions.resolve(request.version or "")
    before = _before(versions, request)
    if before.get(CHAMPION) == version:
        requests.finish(cursor, request.id, UNCHANGED, version=version, aliases_after=before)
        return
    report = judged(settings, versions, cursor, replace(request, version=version), datetime.now(UTC))
    if report["refusals"]:
        raise Refused(version, report)
    after = _move(settings, versions, cursor, request, before, version)
    requests.finish(cursor, request.id, MOVED, version=version, aliases_after=after, report=report, **_judged(report))


def _rollback(settings: Settings, versions: Versions, cursor: Cursor, request: Request) -> None:
    before = _before(versions, request)
    champion, previous = before.get(CHAMPION), before.get(PREVIOUS)
    if request.version is not None and request.version == champion:  # asked twice: back again would be the bad one
        requests.finish(cursor, request.id, UNCHANGED, version=champion, aliases_after=before)
        return
    if request.version is not None and request.version != previous:
        raise BadConfiguration(f"version {request.version} is not the previous champion by now", remedy="vigil models")
    if previous is None or champion is None or previous == champion:
        raise BadConfiguration("there is no previous champion to go back to", remedy="vigil models")
    require_sound(versions, previous)
    after = _move(settings, versions, cursor, request, before, previous)
    requests.finish(cursor, request.id, MOVED, version=previous, aliases_after=after)


def _threshold(settings: Settings, versions: Versions, cursor: Cursor, request: Request) -> None:
    from pipelines.threshold import with_budget

    assert request.alert_budget is not None, "the table asks for one"
    version = versions.resolve(request.version or "")
    before = _before(versions, request)
    if version != before.get(CHAMPION):
        raise BadConfiguration(
            f"version {version} is not the champion: its budget would bring it past the gate",
            remedy=f"vigil promote {version} first",
        )
    made = with_budget(settings, versions, version, request.alert_budget)
    require_sound(versions, made)
    after = _move(settings, versions, cursor, request, before, made)
    requests.finish(cursor, request.id, MOVED, version=made, aliases_after=after)


def _challenge(settings: Settings, versions: Versions, cursor: Cursor, request: Request) -> None:
    from pipelines.challenger import answer as answer_challenge  # which asks `require_sound` of here

    answer_challenge(settings, versions, cursor, request)


Work = Callable[[Settings, Versions, Cursor, Request], None]
WORK: dict[str, Work] = {
    requests.PROMOTE: _promote,
    requests.ROLLBACK: _rollback,
    requests.THRESHOLD: _threshold,
    requests.CHALLENGE: _challenge,
}


def require_sound(versions: Versions, version: str) -> None:
    """Integrity only: sha256, manifest, weights, graph, golden rows, and features this build computes."""
    try:
        versions.load(version)
    except ArtifactCorrupt as error:
        raise PromotionRefused(version, [f"{error.check} ({error.what})"]) from error
    except FeatureSetMismatch as error:
        raise PromotionRefused(version, [f"feature_set ({error})"]) from error


def _before(versions: Versions, request: Request) -> dict[str, str]:
    """The aliases before the move: those an earlier try noted, should it have moved them and died."""
    return versions.aliases() if request.aliases_before is None else request.aliases_before


def _move(
    settings: Settings, versions: Versions, cursor: Cursor, request: Request, before: dict[str, str], champion: str
) -> dict[str, str]:
    """Both aliases, after the audit row; returns what they are then. One mover at a time.

    A challenger that became champion is on trial no longer. `previous` first: should the second call fail,
    champion and previous name the same sound version. A call that failed may have moved its alias all the same;
    then the registry says so. Raises DependencyDown.
    """
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (requests.MOVE_LOCK,))
    current = versions.aliases()
    if current.get(CHAMPION) != champion:  # else an earlier try was here
        before = current  # while the gate judged, somebody else may have moved them
    previous = before.get(CHAMPION)
    after = {**before, CHAMPION: champion} | ({PREVIOUS: previous} if previous else {})
    if after.get(CHALLENGER) == champion:
        del after[CHALLENGER]
    requests.audit(cursor, request.actor, request.action, settings.model_name, before, after, request.id)
    try:
        if previous:
            versions.point(PREVIOUS, previous)
        versions.point(CHAMPION, champion)
        if CHALLENGER in before and CHALLENGER not in after:
            versions.clear(CHALLENGER)
    except DependencyDown:
        if versions.aliases() != after:
            raise
    return after


def _judged(report: dict[str, Any]) -> dict[str, Any]:
    """What a report was made on, as columns of the request; nothing where there was no gate."""
    window = report.get("window") or {}
    said = {"data": report.get("data"), "window_from": window.get("from"), "window_to": window.get("to")}
    return {name: value for name, value in said.items() if value is not None}
