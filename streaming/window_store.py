"""Windows in PostgreSQL: written by key, so that writing a batch again changes nothing."""

import io
from typing import Any

import psycopg2
import psycopg2.extensions
import pyarrow as pa
from pyarrow import csv

from feature_repo.errors import DependencyDown
from feature_repo.postgres import LIVENESS

STATEMENT_TIMEOUT_MS = 60_000

COLUMNS = "kind, key, started_at, ended_at, payments, scored, flagged, amount"
INCOMING = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming ON COMMIT DELETE ROWS
    AS SELECT {COLUMNS} FROM payment_windows WITH NO DATA
"""

# A window only grows while it is counted. So the row with more payments is the newer one, and what a query counts
# anew from a topic that no longer holds all of a window (its checkpoint was lost) never takes a whole one's place.
UPSERT = f"""
    INSERT INTO payment_windows AS w ({COLUMNS}) SELECT {COLUMNS} FROM incoming
    ON CONFLICT (kind, key, ended_at) DO UPDATE SET (started_at, payments, scored, flagged, amount)
        = (excluded.started_at, excluded.payments, excluded.scored, excluded.flagged, excluded.amount)
    WHERE excluded.payments > w.payments
"""
# A batch is noted once, whoever notes it again. A new checkpoint (another run) counts batches and late payments anew.
NOTE = """
    INSERT INTO window_progress AS p (query, run, batch, watermark, late) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (query) DO UPDATE SET run = excluded.run, batch = excluded.batch, watermark = excluded.watermark,
        late = excluded.late + CASE WHEN p.run = excluded.run THEN p.late ELSE 0 END, updated_at = now()
    WHERE p.run <> excluded.run OR p.batch < excluded.batch
"""
FORGET = "DELETE FROM payment_windows WHERE ended_at < now() - make_interval(days => %s)"


class WindowStore:
    """One connection as the writer, opened at the first use and again after a break; for one thread.

    Every method may raise DependencyDown; calling it again is then always right.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg2.extensions.connection | None = None

    def write(self, windows: pa.Table) -> None:
        """Rows of COLUMNS; a window that is known with as many payments or more stays as it is."""
        if windows.num_rows:
            rows = io.BytesIO()
            csv.write_csv(windows, rows, csv.WriteOptions(include_header=False))
            rows.seek(0)
            self._run(UPSERT, (), rows)

    def note(self, query: str, run: str, batch: int, watermark: str, late: int) -> None:
        """What a finished batch of a query came to: `late` payments were not counted in it."""
        self._run(NOTE, (query, run, batch, watermark, late))

    def forget(self, days: int) -> int:
        """Delete windows that ended more than `days` ago; returns how many."""
        return self._run(FORGET, (days,))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, statement: str, parameters: tuple[Any, ...], incoming: io.BytesIO | None = None) -> int:
        """One transaction; rows affected by its statement."""
        try:
            if self._connection is None:
                self._connection = psycopg2.connect(
                    self._dsn,
                    connect_timeout=5,
                    application_name="vigil-windows",
                    options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
                    **LIVENESS,
                )
            with self._connection, self._connection.cursor() as cursor:
                if incoming is not None:
                    cursor.execute(INCOMING)
                    cursor.copy_expert(f"COPY incoming ({COLUMNS}) FROM STDIN (FORMAT csv)", incoming)
                cursor.execute(statement, parameters)
                return int(cursor.rowcount)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self.close()
            address = psycopg2.extensions.parse_dsn(self._dsn)
            where = f"{address.get('host', 'localhost')}:{address.get('port', '5432')}"
            raise DependencyDown("PostgreSQL", where, str(error).strip()) from error
