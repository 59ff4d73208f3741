"""Documents Elasticsearch refused, kept in PostgreSQL with the reason until a reindex takes them."""

import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psycopg2
import psycopg2.extensions
from psycopg2.extras import execute_values

from feature_repo.postgres import LIVENESS
from feature_repo.settings import Settings
from streaming.search import Refusal

log = logging.getLogger(__name__)

PAUSE_S = 2.0
STATEMENT_TIMEOUT_MS = 30_000
REASON_CHARACTERS = 1_000

PARK = """
INSERT INTO parked_documents (decision_id, revision, code, reason) VALUES %s
ON CONFLICT (decision_id, revision)
DO UPDATE SET code = excluded.code, reason = excluded.reason, parked_at = now()
"""


class Parking:
    """Connects when there is something to park: as a rule there never is. For a `with` block."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._dsn = settings.postgres_dsn
        self._stop = stop
        self._connection: psycopg2.extensions.connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def park(self, refusals: Sequence[Refusal]) -> bool:
        """Blocks until all are written, through an outage too. False: stopped before that."""
        rows = {
            (refusal.decision_id, refusal.revision): (
                refusal.decision_id,
                refusal.revision,
                refusal.code,
                refusal.reason.replace("\0", "")[:REASON_CHARACTERS],
            )
            for refusal in refusals  # one row a key: ON CONFLICT takes each only once in a statement
        }
        while rows:
            try:
                self._write(list(rows.values()))
                break
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                self._drop()
                log.warning("refused documents wait for PostgreSQL: %s", str(error).strip().split("\n")[0])
                if self._stop.wait(PAUSE_S):
                    return False
        for refusal in refusals:
            log.warning("parked %s revision %d: %s", refusal.decision_id, refusal.revision, refusal.code)
        return True

    def _write(self, rows: list[tuple[str, int, str, str]]) -> None:
        if self._connection is None:
            self._connection = psycopg2.connect(
                self._dsn,
                connect_timeout=5,
                application_name="vigil-indexer",
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
                **LIVENESS,
            )
        with self._connection, self._connection.cursor() as cursor:
            execute_values(cursor, PARK, rows)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
