"""Drops what was decided longer ago than it is to be kept: day partitions, search indices, dead letters, ranges and
windows.

Labels, promotion requests and the audit log stay. A day is kept, whatever its age, while a decision of it waits to be
published or indexed. What goes is noted in the audit log before it goes, with the first offset of every Kafka
partition that is kept: whoever compares the stores goes by it, and a run that was cut short is simply run again.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.errors
from confluent_kafka import KafkaException, TopicPartition
from psycopg2.extras import Json

from feature_repo.conditions import INDEXERS
from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from infra.elasticsearch import provision
from pipelines import log as kafka
from pipelines.requests import Connection, Cursor, audit, connected
from streaming import indexer
from training.data import midnight

log = logging.getLogger("vigil.retention")

RETENTION = "retention"  # in the audit log
LOCK = 0x5647444C  # "VGDL": one retention at a time
BATCH_ROWS = 20_000  # deleted at once
LOCK_WAIT_MS, LOCK_TRIES, LOCK_PAUSE_S = 1_000, 30, 2.0
ANSWER_S = 10.0

OLD_PARTITIONS = """
    SELECT c.relname, pg_total_relation_size(c.oid), i.inhparent IS NOT NULL
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^decisions_[0-9]{8}$'
        AND c.relname < %s ORDER BY c.relname
"""
# Of what waits to be published, the oldest.
UNPUBLISHED = """
    SELECT min(least(
        (SELECT min(ingested_at) FROM decisions d WHERE d.kafka_topic = r.kafka_topic
            AND d.id >= r.kafka_partition::bigint << 48 | r.first_offset << 4
            AND d.id < r.kafka_partition::bigint << 48 | r.until_offset << 4),
        (SELECT min(ingested_at) FROM dead_letters l WHERE l.kafka_topic = r.kafka_topic
            AND l.kafka_partition = r.kafka_partition AND l.kafka_offset >= r.first_offset
            AND l.kafka_offset < r.until_offset)))
    FROM ledger_ranges r WHERE published_at IS NULL
"""
# Records of a range that was committed earlier arrived earlier.
COMMITTED_BEFORE = """
    SELECT kafka_topic, kafka_partition, coalesce(max(until_offset) FILTER (WHERE committed_at < %s), min(first_offset))
    FROM ledger_ranges GROUP BY 1, 2
"""
LATER_RANGES = """
    SELECT first_offset, until_offset FROM ledger_ranges
    WHERE kafka_topic = %s AND kafka_partition = %s AND first_offset >= %s ORDER BY first_offset
"""
LAST_OLD = """
    SELECT greatest(
        (SELECT max(kafka_offset) FROM decisions WHERE kafka_topic = %(topic)s AND ingested_at < %(until)s
            AND id >= %(partition)s::bigint << 48 | %(low)s::bigint << 4
            AND id < %(partition)s::bigint << 48 | %(high)s::bigint << 4),
        (SELECT max(kafka_offset) FROM dead_letters WHERE kafka_topic = %(topic)s AND ingested_at < %(until)s
            AND kafka_partition = %(partition)s AND kafka_offset >= %(low)s AND kafka_offset < %(high)s))
"""
# By table: which of its rows are old. %(until)s is a moment, %(floors)s a table of topic-partition and offset.
_BELOW = """EXISTS (SELECT FROM jsonb_each_text(%(floors)s::jsonb) AS floor (place, first)
    WHERE place = {place} AND {offset} <= first::bigint)"""
OLD_ROWS = {
    "decisions_default": "ingested_at < %(until)s",
    "dead_letters": "ingested_at < %(until)s",
    "ledger_ranges": "published_at IS NOT NULL AND "
    + _BELOW.format(place="kafka_topic || '-' || kafka_partition", offset="until_offset"),
    "payment_windows": "ended_at < %(until)s",
    "parked_documents": "code <> 'NOT_A_DECISION' AND "
    + _BELOW.format(
        place="regexp_replace(decision_id, '-[0-9]+$', '')", offset="substring(decision_id FROM '[0-9]+$')::bigint + 1"
    ),
}


@dataclass(frozen=True)
class Gone:
    """A table or search index, or rows of one table; `rows` and `bytes` are None where nobody counted."""

    what: str  # partition, rows or index
    name: str
    rows: int | None
    bytes: int | None


@dataclass(frozen=True)
class Retained:
    """`kept_from` is the first day (UTC) that is kept; `held` says why it is earlier than was asked."""

    kept_from: date
    held: str | None
    dry_run: bool
    gone: list[Gone] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(one.bytes or 0 for one in self.gone)

    def as_json(self) -> dict[str, Any]:
        return {
            "kept_from": self.kept_from.isoformat(),
            "held": self.held,
            "dry_run": self.dry_run,
            "bytes": self.bytes,
            "gone": [vars(one) for one in self.gone],
        }


def run(settings: Settings, days: int, actor: str, *, dry_run: bool = False, today: date | None = None) -> Retained:
    """Keep the last `days` days and today; with `dry_run` only say what would go. Raises DependencyDown."""
    asked = (today or datetime.now(UTC).date()) - timedelta(days=days)
    # Only who owns the tables may drop their partitions.
    with connected(settings.model_copy(update={"postgres_dsn": settings.postgres_migrator_dsn})) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET timezone = 'UTC'; SET statement_timeout = 0")
            cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))  # let go with the connection
            oldest, why = _waiting(settings, cursor)
            kept_from = min(asked, oldest.date()) if oldest else asked
            retained = Retained(kept_from, why if kept_from < asked else None, dry_run)
            floors = kept_offsets(cursor) | _floors(cursor, midnight(kept_from))
            partitions = _old_partitions(cursor, kept_from)
            indices = _old_indices(settings, kept_from)
            values = {"until": midnight(kept_from), "floors": Json(floors)}
            rows = {table: _count(cursor, table, values) for table in OLD_ROWS}
            _list(retained, partitions, rows, indices)
            if retained.gone and not dry_run:
                after = {**retained.as_json(), "offsets": floors}
                audit(cursor, actor, RETENTION, "decisions", None, after)
                for name, _, attached in partitions:
                    _drop(connection, cursor, name, attached)
                for table, count in rows.items():
                    if count:
                        _delete(cursor, table, values)
                provision.remove(settings, [name for name, _, _ in indices])
    return retained


def kept_offsets(cursor: Cursor) -> dict[str, int]:
    """By TOPIC-PARTITION the first offset whose outcome is kept, as retention noted it last; 0 where it has none."""
    cursor.execute("SELECT after -> 'offsets' FROM audit WHERE action = %s ORDER BY id DESC LIMIT 1", (RETENTION,))
    row = cursor.fetchone()
    return dict(row[0]) if row else {}


# ---- what may go --------------------------------------------------------------------------------------


def _waiting(settings: Settings, cursor: Cursor) -> tuple[datetime | None, str | None]:
    """When the oldest decision arrived that waits to be published or indexed, and a sentence about it."""
    cursor.execute(UNPUBLISHED)
    ((unpublished,),) = cursor.fetchall()
    found = [(unpublished, "is not published yet")] if unpublished else []
    found += [(moment, "is not indexed yet") for moment in _unindexed(settings)]
    if not found:
        return None, None
    oldest, why = min(found)
    return oldest, f"a decision that arrived on {oldest.astimezone(UTC):%Y-%m-%d} {why}"


def _unindexed(settings: Settings) -> Iterator[datetime]:
    """When the payment arrived whose decision the indexer takes next, of each partition where it has any to take."""
    topic = settings.model_copy(update={"topic": indexer.TOPIC})
    ends = kafka.kept(topic)
    with kafka.consumer(settings, INDEXERS) as consumer:
        try:
            committed = consumer.committed([TopicPartition(topic.topic, number) for number in ends], timeout=ANSWER_S)
        except KafkaException as error:
            raise DependencyDown("Kafka", settings.kafka_bootstrap, error.args[0].str()) from error
    for position in committed:
        low, high = ends[position.partition]
        begins = max(position.offset, low)
        message = kafka.record(topic, position.partition, begins) if begins < high else None
        found = re.search(rb'"ingested_at"\s*:\s*"([0-9-]{10}T[0-9:.]{8,15})Z"', (message and message.value()) or b"")
        if found:
            yield datetime.fromisoformat(found[1].decode()).replace(tzinfo=UTC)


def _floors(cursor: Cursor, until: datetime) -> dict[str, int]:
    """By TOPIC-PARTITION the offset below which every record arrived before `until`."""
    cursor.execute(COMMITTED_BEFORE, (until,))
    floors = {}
    for topic, partition, floor in cursor.fetchall():
        cursor.execute(LATER_RANGES, (topic, partition, floor))
        for low, high in cursor.fetchall():
            values = {"topic": topic, "partition": partition, "low": low, "high": high, "until": until}
            cursor.execute(LAST_OLD, values)
            ((last,),) = cursor.fetchall()
            if last is None:
                break
            floor = last + 1
        floors[f"{topic}-{partition}"] = floor
    return floors


def _old_partitions(cursor: Cursor, kept_from: date) -> list[tuple[str, int, bool]]:
    """Name, bytes, and whether it is attached: a run that was killed may have left one that is not."""
    cursor.execute(OLD_PARTITIONS, (f"decisions_{kept_from:%Y%m%d}",))
    return cursor.fetchall()


def _old_indices(settings: Settings, kept_from: date) -> list[tuple[str, int, int]]:
    """Name, documents and bytes."""
    first_kept = f"{provision.ALIAS}-{kept_from:%Y.%m.%d}"
    return [index for index in provision.sizes(settings) if index[0] < first_kept]


def _count(cursor: Cursor, table: str, values: dict[str, Any]) -> int:
    cursor.execute(f"SELECT count(*) FROM {table} WHERE {OLD_ROWS[table]}", values)
    ((count,),) = cursor.fetchall()
    return int(count)


def _list(
    retained: Retained,
    partitions: list[tuple[str, int, bool]],
    rows: dict[str, int],
    indices: list[tuple[str, int, int]],
) -> None:
    retained.gone.extend(Gone("partition", name, None, size) for name, size, _ in partitions)
    retained.gone.extend(Gone("rows", table, count, None) for table, count in rows.items() if count)
    retained.gone.extend(Gone("index", name, documents, size) for name, documents, size in indices)


# ---- how it goes --------------------------------------------------------------------------------------


def _drop(
    connection: Connection, cursor: Cursor, name: str, attached: bool, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Detach, then drop: what needs all of `decisions` for itself is an entry of the catalogue, not removing files.

    PostgreSQL detaches concurrently only where there is no default partition. So it waits for the lock briefly and
    often: whoever writes decisions never queues behind it for long. Raises StoreUnavailable (through `connected`).
    """
    for tries in range(LOCK_TRIES if attached else 0):
        try:
            with connection.cursor() as alone:
                alone.execute(f"SET lock_timeout = {LOCK_WAIT_MS}")
                alone.execute(f"ALTER TABLE public.decisions DETACH PARTITION public.{name}")
                break
        except psycopg2.errors.LockNotAvailable:
            if tries == LOCK_TRIES - 1:
                raise
            sleep(LOCK_PAUSE_S)
    cursor.execute("SET lock_timeout = 0")
    cursor.execute(f"DROP TABLE public.{name}")
    log.info("dropped %s", name)


def _delete(cursor: Cursor, table: str, values: dict[str, Any]) -> None:
    """In batches, each a transaction of its own."""
    while True:
        cursor.execute(
            f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("
            f"SELECT ctid FROM {table} WHERE {OLD_ROWS[table]} LIMIT {BATCH_ROWS}))",
            values,
        )
        if cursor.rowcount < BATCH_ROWS:
            return
