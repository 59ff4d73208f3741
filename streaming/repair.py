"""Publishing what a crash left unpublished: from PostgreSQL, never by deciding again."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

import numpy as np

from feature_repo.settings import Settings
from streaming.decisions import DeadLetter, decision_id, row_id
from streaming.documents import SCORE_DECIMALS, Message
from streaming.ledger import Ledger, published
from streaming.publish import Publisher, publish_range

log = logging.getLogger(__name__)

UNPUBLISHED = """
    SELECT kafka_partition, first_offset, until_offset FROM ledger_ranges
    WHERE kafka_topic = %s AND published_at IS NULL ORDER BY kafka_partition, first_offset
"""
HELD = """
    SELECT 1 FROM ledger_ranges WHERE kafka_topic = %s AND kafka_partition = %s AND first_offset = %s
        AND published_at IS NULL FOR UPDATE
"""
# What a document holds, in its order.
PUBLISHED = """revision, ingested_at, kafka_topic, kafka_partition, kafka_offset, transaction_id, user_id, amount,
    currency, event_time, merchant, location, payment_method, anomaly_score, outcome, unscored_reason,
    is_anomaly, anomaly_reasons, decision, model_version, feature_set_id, late, ruleset_version, processed_at"""
# By id, which is made of partition and offset and has a small index of its own. Every revision: a backfill that was
# cut short leaves a range unpublished as well.
DECIDED = f"""
    SELECT {PUBLISHED} FROM decisions WHERE id >= %s AND id < %s AND kafka_topic = %s ORDER BY kafka_offset, revision
"""
BURIED = """
    SELECT kafka_offset, code, detail, payload, payload_bytes, payload_sha256, ingested_at, processed_at
    FROM dead_letters
    WHERE kafka_topic = %s AND kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s
    ORDER BY kafka_offset
"""


def publish_unpublished(settings: Settings, ledger: Ledger, publisher: Publisher) -> int:
    """Publish every committed range that was not; returns how many. Raises DependencyDown."""
    with ledger.transaction() as cursor:
        cursor.execute(UNPUBLISHED, (settings.topic,))
        ranges = cursor.fetchall()
    for partition, first, until in ranges:
        publish_decided(settings, ledger, publisher, partition, first, until)
        log.info("published %s-%d from %d to %d, left behind earlier", settings.topic, partition, first, until)
    return len(ranges)


def publish_decided(
    settings: Settings, ledger: Ledger, publisher: Publisher, partition: int, first: int, until: int
) -> None:
    """Publish all there is of a committed range, every revision, unless that was done. Raises DependencyDown.

    The range is ours until it is marked: a revision that a backfill adds meanwhile waits, and unmarks it again.
    """
    topic = settings.topic
    with ledger.transaction(durable=False) as cursor:  # a lost mark only means publishing it twice
        cursor.execute(HELD, (topic, partition, first))
        if cursor.fetchone() is None:
            return
        low, high = row_id(partition, np.array([first, until]), 0).tolist()
        cursor.execute(DECIDED, (low, high, topic))
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        cursor.execute(BURIED, (topic, partition, first, until))
        buried = [_letter(row) for row in cursor.fetchall()]
        messages = [decision_message(row) for row in rows]
        alerts = [message for message, row in zip(messages, rows, strict=True) if row["is_anomaly"]]
        processed = buried[0][1] if buried else 0
        publish_range(publisher, settings, partition, messages, alerts, [letter for letter, _ in buried], processed)
        published(cursor, topic, partition, first)


def decision_message(row: dict[str, Any]) -> Message:
    """A row of `decisions` as the document of topic `decisions`: the same keys in the same order."""
    identity = decision_id(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"])
    document: dict[str, Any] = {"decision_id": identity}
    for name, value in row.items():
        if isinstance(value, datetime):
            document[name] = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        elif name == "amount":
            document[name] = float(value)
        elif name == "anomaly_score" and value is not None:
            # The driver gives a real's shortest text: rounded from that, a digit may differ from what was published.
            document[name] = round(float(np.float32(value)), SCORE_DECIMALS)
        elif name == "anomaly_reasons":
            document[name] = value or []
        else:
            document[name] = value
    return {
        "key": identity.encode(),
        "value": json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(),
    }


def _letter(row: tuple[Any, ...]) -> tuple[DeadLetter, int]:
    """A row of `dead_letters` and the moment it was decided."""
    offset, code, detail, payload, size, sha256, ingested, processed = row
    letter = DeadLetter(offset, code, detail, bytes(payload or b""), size, bytes(sha256 or b""), _micros(ingested))
    return letter, _micros(processed)


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
