"""PostgreSQL as the query service uses it: a few connections, every call with a deadline, read only but for two."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from feature_repo.errors import StoreUnavailable
from feature_repo.postgres import LIVENESS

CONNECTIONS = 8
CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 5_000
WAIT_S = 3.0  # for a free connection

# What a connection that the server closed (a restart, a failover) says at its next use.
BROKEN = (psycopg2.OperationalError, psycopg2.InterfaceError)


class Database:
    """A pool of connections, opened as they are needed; for use from several threads.

    With `writes` a statement may change rows. It may then run twice, should its connection break: it must bear it.
    """

    def __init__(self, dsn: str, *, writes: bool = False) -> None:
        self._dsn = dsn
        self._read_only = "off" if writes else "on"
        self._free: list[psycopg2.extensions.connection] = []
        self._places = threading.BoundedSemaphore(CONNECTIONS)

    def rows(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of one statement, columns by name. Blocks; raises StoreUnavailable."""
        if not self._places.acquire(timeout=WAIT_S):
            raise self._down("all connections are busy")
        try:
            try:
                return self._run(statement, parameters)
            except BROKEN as error:
                if isinstance(error, psycopg2.errors.QueryCanceled):
                    raise self._down(f"no answer within {STATEMENT_TIMEOUT_MS} ms") from error
                self.close()  # every kept connection is as old as this one: a restart broke them all
                return self._run(statement, parameters)
        except (*BROKEN, psycopg2.errors.UndefinedTable) as error:
            raise self._down(str(error).strip()) from error
        finally:
            self._places.release()

    def close(self) -> None:
        while self._free:
            self._free.pop().close()

    def _run(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._connect()
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(statement, parameters)
                found = [dict(row) for row in cursor.fetchall()]
        except BROKEN:
            connection.close()
            raise
        self._free.append(connection)
        return found

    def _connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            self._dsn,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="vigil-api",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
            f" -c default_transaction_read_only={self._read_only} -c search_path=public",
            **LIVENESS,
        )
        connection.autocommit = True
        return connection

    def _down(self, cause: str) -> StoreUnavailable:
        return StoreUnavailable("PostgreSQL", urlsplit(self._dsn).hostname or "local", cause)
