"""The daily rebuild of the merchant snapshots: what had arrived before midnight, for the day that began.

A payment arrives when the broker says so (`ingested_at`), whatever its event time is: payments of last week that the
demo sends today count today, as a stream that runs late would count them. Replay goes by a history's `arrival_time`,
the same clock, so both look a payment up in the same snapshot. A label arrives when it was learnt (`label_time`).

Payments are counted per merchant and day in PostgreSQL, each day once, when all of it is decided; before the stream
began the data set of the settings says who was paid. The same day gives the same snapshot, unless labels of earlier
days came in since.
"""

import logging
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition

from feature_repo import verdicts
from feature_repo.errors import DependencyDown
from feature_repo.merchants import LOOKBACK, MAX_DELAY, Arrivals, snapshot_of
from feature_repo.settings import Settings
from pipelines import labels, merchants, online, requests
from pipelines.history import data_folder
from pipelines.requests import Connection
from training.data import midnight

log = logging.getLogger("vigil.lifecycle")

ROWS = 50_000  # fetched at once
ANSWER_S = 10.0  # Kafka's
_EPOCH = date(1970, 1, 1)
_US = pa.timestamp("us", tz="UTC")

UNCOUNTED = """SELECT wanted FROM unnest(%s) wanted
    WHERE NOT EXISTS (SELECT FROM merchant_days WHERE merchant_days.day = wanted) ORDER BY wanted"""
COUNT = """INSERT INTO merchant_days (day, merchant, payments, first_arrival)
    SELECT %s, merchant, count(*), min(ingested_at) FROM decisions
    WHERE ingested_at >= %s AND ingested_at < %s AND outcome <> 'duplicate' AND revision = 1
    GROUP BY merchant ON CONFLICT DO NOTHING"""
COUNTED = "SELECT merchant, day, payments FROM merchant_days WHERE day >= %s AND day < %s"
# Every label of a payment somebody spoke of lately: an older one may have begun the verdict. Of a payment that arrived
# so long before that its reports do not count nothing is asked, so the partitions of those days stay untouched.
CLAIMED = """SELECT labels.transaction_id, is_fraud, label_time, source, received_at, merchant, ingested_at
    FROM labels CROSS JOIN LATERAL (
        SELECT merchant, ingested_at FROM decisions
        WHERE decisions.transaction_id = labels.transaction_id AND outcome <> 'duplicate' AND revision = 1
            AND ingested_at >= %s AND ingested_at < %s
        ORDER BY ingested_at LIMIT 1) payment
    WHERE label_time < %s AND transaction_id IN (
        SELECT transaction_id FROM labels WHERE label_time >= %s AND label_time < %s)"""


def rebuild_merchants(settings: Settings, day: date) -> None:
    """Publish the snapshot of `day` (UTC), as the road and as Feast read it; where nothing ever arrived, nothing.

    Raises DependencyDown where a server is away, and where the stream has yet to decide a payment that arrived
    before the day.
    """
    first = day - timedelta(days=LOOKBACK)
    with requests.connected(settings) as connection:
        _require_decided(settings, connection, day)
        labels.fetch(settings, settings.data)
        count_days(connection, first, day)
        arrivals = _before_the_stream(settings, connection, day)
        _add_payments(connection, arrivals, first, day)
        _add_claims(connection, arrivals, first, day)
    number = (day - _EPOCH).days
    rows = arrivals.snapshot(number)
    if not len(rows) and not online.has_snapshot(settings):
        return
    folder = data_folder(settings, settings.data)
    folder.mkdir(parents=True, exist_ok=True)
    merchants.keep(folder, rows, number)
    snapshot = snapshot_of(rows, number)
    online.publish_merchants(settings, settings.data, snapshot, rows)
    log.info("snapshot %s: %d merchants on %s", snapshot.id, len(rows), day)


def _require_decided(settings: Settings, connection: Connection, day: date) -> None:
    """By the broker's clock, which stamps the records of the topic and `decisions.ingested_at`."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s", (settings.topic,))
        decided = dict(cursor.fetchall())
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "vigil-look", "log_level": 0})
    try:
        partitions = consumer.list_topics(settings.topic, timeout=ANSWER_S).topics[settings.topic].partitions
        asked = [TopicPartition(settings.topic, number, _micros(midnight(day)) // 1_000) for number in partitions]
        for first in consumer.offsets_for_times(asked, timeout=ANSWER_S):
            low, high = consumer.get_watermark_offsets(first, timeout=ANSWER_S)
            until = first.offset if first.offset >= 0 else high  # none has arrived since
            begins = max(decided.get(first.partition, 0), low)
            if begins < until:
                waiting = f"offsets {begins} to {until} arrived before {day} and wait to be decided"
                raise DependencyDown("stream", f"{settings.topic}-{first.partition}", waiting)
    except KafkaException as error:
        raise DependencyDown("Kafka", settings.kafka_bootstrap, str(error)) from error
    finally:
        consumer.close()


def count_days(connection: Connection, first: date, until: date) -> None:
    """Count the days from `first` to before `until` that were not counted yet, and forget earlier ones."""
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM merchant_days WHERE day < %s", (first,))
        cursor.execute(UNCOUNTED, ([first + timedelta(days=number) for number in range((until - first).days)],))
        days = [day for (day,) in cursor.fetchall()]
    for day in days:
        with connection, connection.cursor() as cursor:
            cursor.execute(COUNT, (day, midnight(day), midnight(day + timedelta(days=1))))


def _before_the_stream(settings: Settings, connection: Connection, day: date) -> Arrivals:
    """What the data set of the settings knows of the time before the first payment the stream decided."""
    folder = data_folder(settings, settings.data)
    if not (folder / "history.parquet").is_file():
        return Arrivals()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT min(first_arrival) FROM merchant_days")
        ((began,),) = cursor.fetchall()
    return merchants.arrivals_of(folder, settings.data, _micros(began or midnight(day)))


def _add_payments(connection: Connection, arrivals: Arrivals, first: date, until: date) -> None:
    with connection, connection.cursor("payments") as cursor:
        cursor.execute(COUNTED, (first, until))
        while found := cursor.fetchmany(ROWS):
            names, days, payments = zip(*found, strict=True)
            numbers = np.array([(day - _EPOCH).days for day in days], np.int64)
            arrivals.pay(pa.array(names, pa.string()), numbers, np.array(payments, np.int64))


def _add_claims(connection: Connection, arrivals: Arrivals, first: date, until: date) -> None:
    """About payments of the stream; those about a history's are in its labels.parquet."""
    oldest = midnight(first - timedelta(days=MAX_DELAY))
    with connection, connection.cursor() as cursor:
        cursor.execute(CLAIMED, (oldest, midnight(until), midnight(until), midnight(first), midnight(until)))
        found = cursor.fetchall()
    columns = list(zip(*found, strict=True)) or [()] * 7
    told = [pa.array(column, field.type) for column, field in zip(columns, verdicts.LABELS, strict=False)]
    runs = verdicts.runs(pa.Table.from_arrays(told, schema=verdicts.LABELS))
    arrived = pa.array(columns[6], _US).cast(pa.int64())
    payments = pa.table([told[0], pa.array(columns[5], pa.string()), arrived], schema=merchants.ARRIVED)
    merchants.report(arrivals, verdicts.claims(runs), payments)


def _micros(time: datetime) -> int:
    return round(time.timestamp() * 1e6)
