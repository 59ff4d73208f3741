"""Rebuilds the search index from PostgreSQL, while the indexer goes on with new decisions.

All revisions are sent in the order they lie in: the external version lets the highest win, which is
cheaper than sorting the table. Both writers may meet on a document; the outcome is the same.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

import psycopg2
import psycopg2.extensions

from feature_repo.errors import StoreUnavailable
from feature_repo.postgres import LIVENESS
from feature_repo.settings import Settings
from streaming import bulk
from streaming.indexer import Counts
from streaming.parking import Parking
from streaming.search import BULK_BYTES, SearchWriter

ROWS = 5_000  # per round trip to PostgreSQL

# Every decision is one document, whatever its outcome. `features` and `reason_shares` stay in PostgreSQL:
# nobody searches them. Same keys, order and values as the documents of streaming.documents.
SELECT = """
SELECT row_to_json(document)::text FROM (SELECT
    kafka_topic || '-' || kafka_partition || '-' || kafka_offset AS decision_id,
    revision,
    to_char(ingested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS ingested_at,
    kafka_topic, kafka_partition, kafka_offset, transaction_id, user_id, amount, currency,
    to_char(event_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS event_time,
    merchant, location, payment_method, outcome, unscored_reason,
    round(anomaly_score::float8::numeric, 6) AS anomaly_score, is_anomaly,
    coalesce(anomaly_reasons, '{}') AS anomaly_reasons, decision, model_version, feature_set_id,
    ruleset_version, late,
    to_char(processed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS processed_at
FROM decisions) AS document
"""


def run(settings: Settings, stop: threading.Event, progress: Callable[[int], None]) -> Counts:
    """Sends every decision to Elasticsearch. `progress` is called with the documents written so far.

    At the end, documents parked by an earlier run and taken now are no longer parked.
    Raises StoreUnavailable where PostgreSQL does not answer.
    """
    counts = Counts()
    try:
        with closing(psycopg2.connect(settings.postgres_dsn, connect_timeout=5, **LIVENESS)) as connection:
            started = _now(connection)
            with SearchWriter(settings, stop) as search, Parking(settings, stop) as parking:
                for entries in _bulks(connection):
                    refused = None if stop.is_set() else search.write(entries)
                    if refused is None or not parking.park(refused):
                        return counts
                    counts.documents += len(entries)
                    counts.bulks += 1
                    counts.parked += len(refused)
                    counts.retries = search.retries
                    progress(counts.documents)
            _release_parked(connection, started)
    except psycopg2.OperationalError as error:
        address = settings.postgres_dsn.rpartition("@")[2]
        cause = str(error).strip().split("\n")[0]
        raise StoreUnavailable("PostgreSQL", address, cause, remedy="vigil up") from error
    return counts


def _bulks(connection: psycopg2.extensions.connection) -> Iterator[list[bytes]]:
    """Entries of one bulk at a time, from one snapshot of the table."""
    entries: list[bytes] = []
    size = 0
    with connection.cursor("reindex") as cursor:
        cursor.itersize = ROWS
        cursor.execute(SELECT)
        for (document,) in cursor:
            entry = bulk.entry(document.encode())
            assert entry is not None, "SELECT writes the keys in order"
            entries.append(entry)
            size += len(entry)
            if size >= BULK_BYTES:
                yield entries
                entries, size = [], 0
    if entries:
        yield entries


def _now(connection: psycopg2.extensions.connection) -> datetime:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def _release_parked(connection: psycopg2.extensions.connection, started: datetime) -> None:
    """Whatever was refused now was parked again, later than `started`."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM parked_documents WHERE parked_at < %s AND code <> %s",
            (started, bulk.NOT_A_DECISION),
        )
