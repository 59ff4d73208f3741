"""Table `promotion_requests`: what is asked of the aliases, by whom, and what became of it.

Whoever works on a request holds its row's lock, so two never work on one, and a request whose worker died is
free again at once. The row is the request's whole life; the audit log names it.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extras import Json, RealDictCursor

from feature_repo.errors import StoreUnavailable, VigilError
from feature_repo.postgres import LIVENESS
from feature_repo.settings import Settings

Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor

CONNECT_TIMEOUT_S = 5
MAX_TRIES = 3  # a request that takes its worker along a third time is given up
WORK_LOCK = 0x5647574B  # "VGWK": held by the connection that works on a request, with the request's id
WORKER_LOCK = 0x56474C43  # "VGLC": held shared by every running worker, with its model's name
MOVE_LOCK = 0x56474D56  # "VGMV": held by whoever moves aliases, to the end of its transaction

PROMOTE, ROLLBACK, THRESHOLD, CHALLENGE = "promote", "rollback", "threshold", "challenger"
MOVED, UNCHANGED, REFUSED, FAILED = "moved", "unchanged", "refused", "failed"


class RequestFailed(VigilError):
    """The worker could not do what was asked; `code` is its reason."""

    status = 409

    def __init__(self, request: "Request") -> None:
        super().__init__(f"request {request.id}: {request.detail or 'failed'}")
        self.code = request.code or self.code


@dataclass(frozen=True)
class Asked:
    """A request as it is made. `version` is None for a rollback and for the end of a trial, `alert_budget` only given
    for a threshold."""

    action: str
    actor: str
    version: str | None = None
    data: str | None = None
    override: str | None = None
    alert_budget: float | None = None


@dataclass(frozen=True)
class Request:
    """A row. Aliases are alias -> version; `report` is the gate's."""

    id: int
    requested_at: datetime
    token: str | None
    actor: str
    action: str
    model_name: str
    version: str | None
    data: str | None
    override: str | None
    alert_budget: float | None
    tries: int
    started_at: datetime | None
    aliases_before: dict[str, str] | None
    finished_at: datetime | None
    outcome: str | None
    code: str | None
    detail: str | None
    aliases_after: dict[str, str] | None
    window_from: date | None
    window_to: date | None
    report: dict[str, Any] | None


@contextmanager
def connected(settings: Settings) -> Iterator[Connection]:
    """A connection of the writer. Raises StoreUnavailable, also where it breaks while it is used."""
    try:
        connection = psycopg2.connect(
            settings.postgres_dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="vigil-lifecycle", **LIVENESS
        )
        try:
            yield connection
        finally:
            connection.close()
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        host = psycopg2.extensions.parse_dsn(settings.postgres_dsn).get("host", "localhost")
        raise StoreUnavailable("PostgreSQL", str(host), str(error).strip()) from error


def rows(settings: Settings, statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What one statement gives, in a transaction and over a connection of its own. Raises StoreUnavailable."""
    with connected(settings) as connection, connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(statement, values)
        return [dict(row) for row in cursor.fetchall()]


def audit(
    cursor: Cursor,
    actor: str,
    action: str,
    subject: str,
    before: dict[str, Any] | None,
    after: dict[str, Any],
    request_id: int | None = None,
) -> None:
    """A row of the audit log, in the transaction of what it tells."""
    cursor.execute(
        "INSERT INTO audit (actor, action, subject, before, after, request_id) VALUES (%s, %s, %s, %s, %s, %s)",
        (actor, action, subject, None if before is None else Json(before), Json(after), request_id),
    )


def add(connection: Connection, model_name: str, asked: Asked) -> int:
    """Write the request down; returns its id."""
    values = (asked.actor, asked.action, model_name, asked.version, asked.data, asked.override, asked.alert_budget)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO promotion_requests (actor, action, model_name, version, data, override, alert_budget)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
            values,
        )
        return _one(cursor)


def cancel(connection: Connection, request_id: int) -> None:
    """Whoever asked no longer waits: nobody is to do it later. One in a worker's hands is left to it."""
    with connection, connection.cursor() as cursor:
        if lock(cursor, request_id) is not None:
            finish(cursor, request_id, FAILED, code="CANCELLED", detail="the command that asked was interrupted")


def read(connection: Connection, request_id: int) -> Request:
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute("SELECT * FROM promotion_requests WHERE id = %s", (request_id,))
        (row,) = cursor.fetchall()
        return Request(**row)


def begin(connection: Connection, model_name: str, request_id: int | None = None) -> int | None:
    """Note that work begins on this request, or on the oldest that waits; None where there is none to be had.

    Committed at once, so that a try that ends its worker counts; and ours from here until `release`, so that only
    one begins it.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            """SELECT id FROM promotion_requests
            WHERE finished_at IS NULL AND model_name = %s AND (%s::bigint IS NULL OR id = %s) ORDER BY id""",
            (model_name, request_id, request_id),
        )
        for (waiting,) in cursor.fetchall():
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", (WORK_LOCK, waiting & 0x7FFFFFFF))
            if not _one(cursor):
                continue
            cursor.execute(
                "UPDATE promotion_requests SET started_at = now(), tries = tries + 1"
                " WHERE id = %s AND finished_at IS NULL",
                (waiting,),
            )
            if cursor.rowcount:
                return int(waiting)
            release(cursor, waiting)  # finished a moment ago
    return None


def release(cursor: Cursor, request_id: int) -> None:
    """It is no longer ours; a connection that ends releases what it began."""
    cursor.execute("SELECT pg_advisory_unlock(%s, %s)", (WORK_LOCK, request_id & 0x7FFFFFFF))


def lock(cursor: Cursor, request_id: int) -> Request | None:
    """The unfinished request, its row ours to the end of the transaction; None where another is faster."""
    cursor.execute(
        "SELECT * FROM promotion_requests WHERE id = %s AND finished_at IS NULL FOR UPDATE SKIP LOCKED", (request_id,)
    )
    row = cursor.fetchone()
    if row is None:
        return None
    names = [column.name for column in cursor.description or ()]
    return Request(**dict(zip(names, row, strict=True)))


def note(connection: Connection, request_id: int, aliases: dict[str, str]) -> None:
    """Keep the aliases before the move, committed at once, unless an earlier try kept its own."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            """UPDATE promotion_requests SET aliases_before = %s WHERE id = (
                SELECT id FROM promotion_requests
                WHERE id = %s AND finished_at IS NULL AND aliases_before IS NULL FOR UPDATE SKIP LOCKED)""",
            (Json(aliases), request_id),
        )


def finish(cursor: Cursor, request_id: int, outcome: str, **values: Any) -> None:
    """Write what became of it; `values` are columns of the row."""
    changes = {"outcome": outcome, **values}
    assignments = ", ".join(f"{name} = %s" for name in changes)
    given = [Json(value) if isinstance(value, dict) else value for value in changes.values()]
    cursor.execute(
        f"UPDATE promotion_requests SET finished_at = now(), {assignments} WHERE id = %s", (*given, request_id)
    )


def judged_before(cursor: Cursor, request: Request, window: dict[str, Any]) -> int:
    """How many versions were judged on this window already: the more tries, the less a pass means."""
    cursor.execute(
        """SELECT count(*) FROM promotion_requests
        WHERE model_name = %s AND data = %s AND window_from = %s AND window_to = %s AND id <> %s""",
        (request.model_name, request.data, window["from"], window["to"], request.id),
    )
    return _one(cursor)


def announce_worker(connection: Connection, model_name: str) -> None:
    """For as long as the connection lives, `worker_runs` says so."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock_shared(%s, %s)", (WORKER_LOCK, _key(model_name)))


def worker_runs(connection: Connection, model_name: str) -> bool:
    """Whether a lifecycle worker of this model is alive."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            """SELECT EXISTS (SELECT FROM pg_locks
                WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND mode = 'ShareLock' AND granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))""",
            (WORKER_LOCK, _key(model_name)),
        )
        return bool(_one(cursor))


def _key(model_name: str) -> int:
    """A number for a lock; PostgreSQL takes 31 bits as they are."""
    return zlib.crc32(model_name.encode()) & 0x7FFFFFFF


def _one(cursor: Cursor) -> int:
    """The one value of the one row."""
    ((value,),) = cursor.fetchall()
    return int(value)


def latest_by_version(connection: Connection, model_name: str) -> dict[str, Request]:
    """The newest finished promotion request of each version."""
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(
            """SELECT DISTINCT ON (version) * FROM promotion_requests
            WHERE model_name = %s AND action = 'promote' AND finished_at IS NOT NULL ORDER BY version, id DESC""",
            (model_name,),
        )
        return {str(row["version"]): Request(**row) for row in cursor.fetchall()}
