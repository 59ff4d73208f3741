"""Decisions, alerts and dead letters as JSON documents, built from columns.

The decision document is at once the message on topic `decisions` and the document in Elasticsearch; its
contract is `feature_repo/contracts/decisions.schema.json`.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.decision import DECISIONS
from streaming.columns import (
    Column,
    coded,
    constant,
    decimals,
    integers,
    join,
    json_text,
    texts,
    timestamps,
)
from streaming.decisions import (
    DUPLICATE,
    OUTCOMES,
    REVISION,
    SCORED,
    UNSCORED_REASONS,
    DeadLetter,
    Decisions,
    decision_id,
    moment,
)
from streaming.rows import explained, reason_codes

SCORE_DECIMALS = 6


@dataclass(frozen=True)
class Message:
    """One message as it goes to Kafka."""

    key: bytes
    value: bytes


def _quoted(column: Column) -> list[Column]:
    """A text column between quotes, `null` where it is absent."""
    quote = coded([b'"', b"null"], (column.lengths < 0).astype(np.int64))
    close = coded([b'"', b""], (column.lengths < 0).astype(np.int64))
    return [quote, column, close]


def _number(column: Column) -> list[Column]:
    return [column, coded([b"", b"null"], (column.lengths < 0).astype(np.int64))]


def _field(name: str, value: list[Column], n: int) -> list[Column]:
    return [constant(f',"{name}":'.encode(), n), *value]


def _choice(options: list[str | None], codes: npt.NDArray[np.integer]) -> list[Column]:
    """A column of few distinct values, each written as JSON once."""
    return [coded([json.dumps(option).encode() for option in options], codes)]


def decision_messages(d: Decisions) -> list[Message]:
    """One message per decision, in log order."""
    n = len(d)
    if n == 0:
        return []
    p = d.payments
    scored = d.outcome == SCORED
    offsets = integers(d.offsets)
    identity = [constant(f"{d.topic}-{d.partition}-".encode(), n), offsets]
    with_reasons = explained(d)
    reasons = [b"[]", *(json.dumps(reason_codes(d.reasons[row])).encode() for row in with_reasons)]
    reason_code = np.zeros(n, np.int64)
    reason_code[with_reasons] = np.arange(1, len(reasons))
    unscored = np.minimum(d.unscored, len(UNSCORED_REASONS))
    head = f'","revision":{REVISION},"ingested_at":"'.encode()

    def text(name: str) -> list[Column]:
        return _quoted(json_text(texts(p.column(name))))

    fields: list[Column] = [
        constant(b'{"decision_id":"', n), *identity,
        constant(head, n), timestamps(d.ingested), constant(b'"', n),
        *_field("kafka_topic", [constant(json.dumps(d.topic).encode(), n)], n),
        *_field("kafka_partition", [constant(str(d.partition).encode(), n)], n),
        *_field("kafka_offset", [offsets], n),
        *_field("transaction_id", text("transaction_id"), n),
        *_field("user_id", text("user_id"), n),
        *_field("amount", [decimals(p.column("amount").to_numpy(), 4)], n),
        *_field("currency", _quoted(json_text(texts(p.column("currency").fill_null(d.currency)))), n),
        *_field("event_time", _quoted(timestamps(p.column("event_time").cast(pa.int64()).to_numpy())), n),
        *_field("merchant", text("merchant"), n),
        *_field("location", text("location"), n),
        *_field("payment_method", text("payment_method"), n),
        *_field("outcome", _choice(list(OUTCOMES), d.outcome), n),
        *_field("unscored_reason", _choice([*UNSCORED_REASONS, None], unscored), n),
        *_field("anomaly_score", _number(decimals(d.scores, SCORE_DECIMALS, scored)), n),
        *_field("is_anomaly", [coded([b"false", b"true", b"null"], np.where(scored, d.is_anomaly, 2))], n),
        *_field("anomaly_reasons", [coded([*reasons], reason_code)], n),
        *_field("decision", _choice([*DECISIONS, None],
                                    np.where(d.outcome != DUPLICATE, d.decision, len(DECISIONS))), n),
        *_field("model_version", _choice([d.model_version, None], np.where(scored, 0, 1)), n),
        *_field("feature_set_id", _choice([d.feature_set_id, None], np.where(scored, 0, 1)), n),
        *_field("ruleset_version", [constant(json.dumps(d.ruleset).encode(), n)], n),
        *_field("late", _choice_bool(d.late), n),
        *_field("processed_at", [constant(json.dumps(_text(d.processed)).encode(), n)], n),
        constant(b"}", n),
    ]  # fmt: skip
    return _messages(identity, fields)


def _choice_bool(values: npt.NDArray[np.bool_]) -> list[Column]:
    return [coded([b"false", b"true"], values.astype(np.int64))]


def _text(micros: int) -> str:
    return moment(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _messages(identity: list[Column], fields: list[Column]) -> list[Message]:
    keys, key_ends = join(identity, framed=False)
    values, value_ends = join(fields, framed=False)
    key_bytes, value_bytes = keys.tobytes(), values.tobytes()
    messages = []
    key_at = value_at = 0
    for key_end, value_end in zip(key_ends.tolist(), value_ends.tolist(), strict=True):
        messages.append(Message(key_bytes[key_at:key_end], value_bytes[value_at:value_end]))
        key_at, value_at = key_end, value_end
    return messages


def alert_rows(d: Decisions) -> npt.NDArray[np.int64]:
    return np.flatnonzero((d.outcome == SCORED) & d.is_anomaly)


def dead_letter_message(topic: str, partition: int, processed: int, letter: DeadLetter) -> Message:
    """Contract: `feature_repo/contracts/transactions.dlq.schema.json`."""
    identity = decision_id(topic, partition, letter.offset)
    document: dict[str, Any] = {
        "dead_letter_id": identity,
        "kafka_topic": topic,
        "kafka_partition": partition,
        "kafka_offset": letter.offset,
        "code": letter.code,
        "detail": letter.detail,
        "payload": letter.payload[:4096].decode("utf-8", "replace"),
        "payload_bytes": letter.size,
        "payload_sha256": letter.sha256.hex(),
        "ingested_at": _text(letter.ingested),
        "processed_at": _text(processed),
    }
    return Message(identity.encode(), json.dumps(document, ensure_ascii=False).encode())
