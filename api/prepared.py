"""PostgreSQL for what is asked thousands of times a second: statements planned once, answers in binary form, no thread.

Read only. Statements are prepared per connection and kept, with one plan for all parameters: planning a query over
the days' partitions costs more than running it. So a limit, whose size matters to the plan, is written into the text.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from api.postgres import CONNECT_TIMEOUT_S, CONNECTIONS, STATEMENT_TIMEOUT_MS, WAIT_S
from feature_repo.errors import StoreUnavailable

STATEMENTS = 200  # kept by each connection
SLACK_S = 1.0  # beyond the server's own deadline, for a server that does not answer at all
STALLED = "60s"  # a reader that takes nothing for so long is let go
# What a connection that the server closed says at its next use; the last where it did so at that very moment.
BROKEN = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)  # fmt: skip
DOWN = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

Answer = TypeVar("Answer")


class PreparedDatabase:
    """A pool of connections, opened as they are needed; for one event loop. Raises StoreUnavailable."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._free: list[asyncpg.Connection] = []
        self._places = asyncio.BoundedSemaphore(CONNECTIONS)

    async def value(self, statement: str, parameters: list[Any]) -> Any:
        """The first column of the first row."""

        async def ask(connection: asyncpg.Connection) -> Any:
            return await connection.fetchval(statement, *parameters)

        return await self._asked(ask)

    @asynccontextmanager
    async def pieces(self, statement: str, parameters: list[Any], rows: int) -> AsyncIterator[AsyncIterator[list[Any]]]:
        """The first column of all rows, read by a cursor of the server so many at a time."""
        connection = await self._connect()  # of its own: a slow reader keeps it for long
        try:
            async with connection.transaction(readonly=True):
                cursor = await connection.cursor(statement, *parameters)
                yield self._read(cursor, rows)
        except DOWN as error:
            raise self._down(error) from error
        finally:
            connection.terminate()

    async def close(self) -> None:
        while self._free:
            self._free.pop().terminate()

    async def _read(self, cursor: Any, rows: int) -> AsyncIterator[list[Any]]:
        while found := await cursor.fetch(rows):
            yield [row[0] for row in found]

    async def _asked(self, ask: Callable[[asyncpg.Connection], Awaitable[Answer]]) -> Answer:
        if self._places.locked():
            try:
                await asyncio.wait_for(self._places.acquire(), WAIT_S)
            except TimeoutError as error:
                raise self._down("all connections are busy") from error
        else:
            await self._places.acquire()
        try:
            try:
                return await self._run(ask)
            except BROKEN:
                await self.close()  # every kept connection is as old as this one: a restart broke them all
                return await self._run(ask)
        except DOWN as error:
            raise self._down(error) from error
        finally:
            self._places.release()

    async def _run(self, ask: Callable[[asyncpg.Connection], Awaitable[Answer]]) -> Answer:
        connection = self._free.pop() if self._free else await self._connect()
        try:
            found = await ask(connection)
        except BaseException:  # whoever asked may be gone in the middle of an answer
            connection.terminate()
            raise
        self._free.append(connection)
        return found

    async def _connect(self) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=STATEMENT_TIMEOUT_MS / 1_000 + SLACK_S,
                statement_cache_size=STATEMENTS,
                max_cached_statement_lifetime=0,
                server_settings={
                    "application_name": "vigil-api",
                    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": STALLED,
                    "timezone": "UTC",
                    "default_transaction_read_only": "on",
                    "search_path": "public",
                    "plan_cache_mode": "force_generic_plan",
                },
            )
        except DOWN as error:
            raise self._down(error) from error

    def _down(self, cause: object) -> StoreUnavailable:
        if isinstance(cause, asyncpg.QueryCanceledError):
            cause = f"no answer within {STATEMENT_TIMEOUT_MS} ms"
        return StoreUnavailable("PostgreSQL", urlsplit(self._dsn).hostname or "local", str(cause) or repr(cause))
