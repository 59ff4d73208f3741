"""The ledger: which offsets of each partition are decided. PostgreSQL is the only truth about that.

A partition's row holds `committed_until` and the attempt that last claimed it. A commit moves the row only
where both are still what the attempt saw (compare-and-set), in the transaction that writes the decisions:
an attempt that lost the partition changes nothing.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import psycopg2
import psycopg2.errors
import psycopg2.extensions

from feature_repo.errors import DependencyDown, LedgerMoved, RowRefused
from feature_repo.features import NAMES
from feature_repo.postgres import LIVENESS, within
from feature_repo.switches import CURRENT
from serving.decision import RULESET
from streaming.decisions import DUPLICATE, OUTCOMES, SCORED, UNSCORED, Range, row_id
from streaming.records import ID_CONFLICT
from streaming.rows import DEAD_LETTER_COLUMNS, DECISION_COLUMNS

# What PostgreSQL says when it is away, or for now takes no writes (a standby, after a failover).
AWAY = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.errors.ReadOnlySqlTransaction)
COPY_CHUNK_BYTES = 1 << 18
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 60_000
TRANSACTION_TIMEOUT_S = 90.0  # whatever the server does: longer than its own deadline

CLAIM = """
    INSERT INTO ledger AS l (kafka_topic, kafka_partition, committed_until, attempt, claimed_at)
    VALUES (%s, %s, 0, %s, now())
    ON CONFLICT (kafka_topic, kafka_partition)
        DO UPDATE SET attempt = excluded.attempt, claimed_at = excluded.claimed_at
    RETURNING committed_until, committed_at IS NULL
"""
MOVE = """
    UPDATE ledger SET committed_until = %s, committed_at = now()
    WHERE kafka_topic = %s AND kafka_partition = %s AND attempt = %s AND committed_until = %s
"""
RANGE = """
    INSERT INTO ledger_ranges (kafka_topic, kafka_partition, first_offset, until_offset, attempt,
        model_version, feature_set_id, ruleset_version, feature_names, records, scored, unscored, duplicates,
        dead_letters, committed_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())
"""
BURIED = """
    SELECT kafka_offset FROM dead_letters
    WHERE kafka_topic = %s AND kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s AND code <> %s
"""
DECIDED = """
    SELECT EXISTS (SELECT 1 FROM decisions WHERE id >= %s AND id < %s AND kafka_topic = %s)
        OR EXISTS (SELECT 1 FROM dead_letters
            WHERE kafka_topic = %s AND kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s)
"""
PUBLISHED = """
    UPDATE ledger_ranges SET published_at = now()
    WHERE kafka_topic = %s AND kafka_partition = %s AND first_offset = %s AND published_at IS NULL
"""
WAITING = """
    SELECT count(*), greatest(coalesce(extract(epoch FROM clock_timestamp() - min(committed_at)), 0), 0)
    FROM ledger_ranges WHERE kafka_topic = %s AND published_at IS NULL
"""


class Claim(NamedTuple):
    """`untouched`: nothing was ever committed here, nor were states moved here, so there are none to be missed."""

    committed: int
    untouched: bool


class Ledger:
    """One connection to PostgreSQL as the writer; opened at the first use and again after a break.

    Every method may raise DependencyDown when PostgreSQL does not answer. After one from `commit` the
    outcome is unknown: the next `claim` tells.
    """

    def __init__(self, dsn: str, topic: str, within_s: float = TRANSACTION_TIMEOUT_S) -> None:
        self._dsn = dsn
        self._within_s = within_s
        self._topic = topic
        self._connection: psycopg2.extensions.connection | None = None

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[psycopg2.extensions.cursor]:
        """One transaction; committed when the block ends, rolled back when it raises."""
        try:
            connection = self._connect()
            with within(connection, self._within_s), connection, connection.cursor() as cursor:
                if not durable:
                    cursor.execute("SET LOCAL synchronous_commit = off")
                yield cursor
        except AWAY as error:
            self.close()
            raise DependencyDown("PostgreSQL", _address(self._dsn), str(error).strip()) from error

    def _connect(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                self._dsn,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="vigil-stream",
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
                **LIVENESS,
            )
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def positions(self) -> dict[int, int]:
        """`committed_until` of every partition the ledger knows."""
        with self.transaction() as cursor:
            cursor.execute("SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s", (self._topic,))
            return dict(cursor.fetchall())

    def switches(self) -> dict[str, str]:
        """How each switch stands, by name."""
        with self.transaction() as cursor:
            cursor.execute(CURRENT)
            return {name: state for name, state, *_ in cursor.fetchall()}

    def unpublished(self) -> tuple[int, float]:
        """How many ranges are decided and not yet on Kafka, and for how many seconds the oldest of them."""
        with self.transaction() as cursor:
            cursor.execute(WAITING, (self._topic,))
            ((ranges, age_s),) = cursor.fetchall()
            return int(ranges), float(age_s)

    def claim(self, partition: int, attempt: str) -> Claim:
        """Make the partition ours until another attempt claims it."""
        with self.transaction() as cursor:
            cursor.execute(CLAIM, (self._topic, partition, attempt))
            row = cursor.fetchone()
            assert row is not None  # an upsert always returns its row
            return Claim(*row)

    def buried(self, partition: int, first: int, until: int) -> list[int]:
        """What `buried` says, in a transaction of its own."""
        with self.transaction() as cursor:
            return buried(cursor, self._topic, partition, first, until)

    def decided(self, partition: int, first: int, until: int) -> bool:
        """Whether any of these offsets has an outcome: one that no record lies at has none."""
        low, high = row_id(partition, np.array([first, until]), 0).tolist()
        with self.transaction() as cursor:
            cursor.execute(DECIDED, (low, high, self._topic, self._topic, partition, first, until))
            ((found,),) = cursor.fetchall()
            return bool(found)

    def commit(self, done: Range, committed: int, decisions: bytes, dead_letters: bytes) -> None:
        """Write a range and move the ledger from `committed` to its end, all or nothing.

        `decisions` and `dead_letters` are COPY files, empty for none. Raises LedgerMoved when another
        attempt claimed or moved the partition since, RowRefused where PostgreSQL takes offence at a row.
        """
        counts = [done.outcomes.get(OUTCOMES[o], 0) for o in (SCORED, UNSCORED, DUPLICATE)]
        with self.transaction() as cursor:
            cursor.execute(MOVE, (done.until, done.topic, done.partition, done.attempt, committed))
            if cursor.rowcount != 1:
                raise LedgerMoved(done.topic, done.partition)
            try:
                _copy(cursor, decisions, dead_letters)
            except (psycopg2.DataError, psycopg2.IntegrityError) as error:
                raise RowRefused(done.topic, done.partition, error.pgcode or "unknown") from error
            cursor.execute(
                RANGE,
                (
                    done.topic, done.partition, done.first, done.until, done.attempt, done.model_version,
                    done.feature_set_id, done.ruleset, list(NAMES), done.records, *counts, done.dead_letters,
                ),
            )  # fmt: skip

    def pass_over(self, partition: int, committed: int, until: int) -> None:
        """Move the ledger over offsets that no longer hold a record, as a range without any; raises LedgerMoved."""
        attempt, processed = str(uuid4()), int(time.time() * 1e6)
        self.claim(partition, attempt)
        nothing = Range(
            self._topic, partition, committed, until, attempt, processed, None, None, RULESET, records=0, dead_letters=0
        )
        self.commit(nothing, committed, b"", b"")
        self.mark_published(partition, committed)

    def refuses(self, decisions: bytes, dead_letters: bytes) -> str | None:
        """Why PostgreSQL refuses these COPY files (SQLSTATE), None where it takes them. Writes nothing."""
        with self.transaction() as cursor:
            try:
                _copy(cursor, decisions, dead_letters)
            except (psycopg2.DataError, psycopg2.IntegrityError) as error:
                return error.pgcode or "unknown"
            finally:
                cursor.connection.rollback()
        return None

    def mark_published(self, partition: int, first: int) -> None:
        """Note that a range is on Kafka; not fsynced, as a lost mark only means publishing it twice."""
        with self.transaction(durable=False) as cursor:
            published(cursor, self._topic, partition, first)

    def ensure_partitions(self) -> None:
        """Create the day partitions of `decisions` from yesterday to the day after tomorrow."""
        with self.transaction() as cursor:
            cursor.execute("SELECT ensure_decision_partitions((now() AT TIME ZONE 'UTC')::date - 1, 4)")


def published(cursor: psycopg2.extensions.cursor, topic: str, partition: int, first: int) -> None:
    """Note in the cursor's transaction that a range is on Kafka."""
    cursor.execute(PUBLISHED, (topic, partition, first))


def buried(cursor: psycopg2.extensions.cursor, topic: str, partition: int, first: int, until: int) -> list[int]:
    """Offsets that no state holds, then or ever after: of all dead letters but conflicts, which were folded."""
    cursor.execute(BURIED, (topic, partition, first, until, ID_CONFLICT))
    return [offset for (offset,) in cursor.fetchall()]


def _copy(cursor: psycopg2.extensions.cursor, decisions: bytes, dead_letters: bytes) -> None:
    for table, columns, body in (
        ("decisions", DECISION_COLUMNS, decisions),
        ("dead_letters", DEAD_LETTER_COLUMNS, dead_letters),
    ):
        if body:
            statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
            cursor.copy_expert(statement, io.BytesIO(body), size=COPY_CHUNK_BYTES)


def _address(dsn: str) -> str:
    parts = psycopg2.extensions.parse_dsn(dsn)
    return f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}"
