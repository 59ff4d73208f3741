"""Decisions, alerts and dead letters as JSON documents, built from columns.

The decision document is at once the message on topic `decisions` and the document in Elasticsearch; its
contract is `feature_repo/contracts/decisions.schema.json`.
"""

import json
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streaming.columns import Column, coded, join, json_text, or_else, texts
from streaming.decisions import REVISION, SCORED, DeadLetter, Decisions, Verdict, decision_id, moment
from streaming.numerals import decimals, integers, timestamps

HEAD = b'{"decision_id":"'
SCORE_DECIMALS = 6


class Message(TypedDict):
    """One message as it goes to Kafka, in the form its client takes."""

    key: NotRequired[bytes]
    value: bytes


def decision_messages(d: Decisions) -> list[Message]:
    """One message per decision, in log order."""
    if not len(d):
        return []
    p, offsets = d.payments, integers(d.offsets)
    verdicts, codes = d.verdicts
    identity = f"{d.topic}-{d.partition}-".encode()

    def text(name: str) -> Column:
        return json_text(texts(p.column(name)))

    values, ends = join(
        [
            HEAD + identity, offsets,
            f'","revision":{REVISION},"ingested_at":"'.encode(), timestamps(d.ingested),
            f'","kafka_topic":{json.dumps(d.topic)},"kafka_partition":{d.partition},"kafka_offset":'.encode(), offsets,
            b',"transaction_id":"', text("transaction_id"),
            b'","user_id":"', text("user_id"),
            b'","amount":', decimals(p.column("amount").to_numpy(), 4),
            b',"currency":"', _currency(p.column("currency"), d.currency),
            b'","event_time":"', timestamps(p.column("event_time").cast(pa.int64()).to_numpy()),
            b'","merchant":"', text("merchant"),
            b'","location":"', text("location"),
            b'","payment_method":"', text("payment_method"),
            b'","anomaly_score":', or_else(decimals(d.scores, SCORE_DECIMALS, d.outcome == SCORED), b"null"),
            b",", coded([_verdict(verdict) for verdict in verdicts], codes),
            f',"ruleset_version":{json.dumps(d.ruleset)},"processed_at":"{_text(d.processed)}"}}'.encode(),
        ]
    )  # fmt: skip
    key_ends = len(HEAD) + len(identity) + offsets.lengths
    return _messages(values.tobytes(), ends.tolist(), key_ends.tolist())


def _currency(column: pa.Array, default: str) -> Column | bytes:
    if column.null_count == len(column):
        return default.encode()
    return json_text(texts(column.fill_null(default)))


def _verdict(verdict: Verdict) -> bytes:
    """The verdict's fields as they stand within a JSON object."""
    fields = verdict._asdict() | {"anomaly_reasons": verdict.anomaly_reasons or ()}
    return json.dumps(fields, separators=(",", ":"))[1:-1].encode()


def _text(micros: int) -> str:
    return moment(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _messages(content: bytes, ends: list[int], key_ends: list[int]) -> list[Message]:
    """Documents that lie one behind the other, and how far from each one's start its id reaches."""
    head, starts = len(HEAD), [0, *ends[:-1]]
    return [
        {"key": content[start + head : start + key_end], "value": content[start:end]}
        for start, end, key_end in zip(starts, ends, key_ends, strict=True)
    ]


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
    return {"key": identity.encode(), "value": json.dumps(document, ensure_ascii=False).encode()}
