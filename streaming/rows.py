"""Decisions and dead letters in PostgreSQL's binary COPY format, built from columns."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.wire import MAX_REASONS, NO_REASON
from streaming.columns import NULL, Bytes, Column, coded, fixed, framed, join, texts
from streaming.decisions import REVISION, SCORED, DeadLetter, Decisions, Shadow, Verdict, row_id
from streaming.numerals import numerics

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01, what binary timestamps count from
TEXT_OID, FLOAT4_OID = 25, 700

NUMBERS = ("id", "kafka_partition", "kafka_offset", "revision", "event_time", "ingested_at", "processed_at")
TEXTS = ("transaction_id", "user_id", "merchant", "location", "payment_method")
VERDICT = (
    "outcome", "unscored_reason", "is_anomaly", "anomaly_reasons", "decision", "model_version", "feature_set_id",
    "late",
)  # fmt: skip
DECISION_COLUMNS = (
    "kafka_topic", *NUMBERS, *TEXTS, "amount", "currency", *VERDICT, "ruleset_version", "anomaly_score",
    "reason_shares", "features", "side_inputs", "challenger_version", "challenger_score",
)  # fmt: skip
DEAD_LETTER_COLUMNS = (
    "kafka_topic", "kafka_partition", "kafka_offset", "payload_bytes", "ingested_at", "processed_at", "code", "detail",
    "payload", "payload_sha256",
)  # fmt: skip


def decision_copy(d: Decisions) -> bytes:
    """All decisions as one COPY file, sorted by user so that the user index is written in runs."""
    payments, scored = d.payments, d.outcome == SCORED
    verdicts, codes = d.verdicts
    without_features = np.isnan(d.features[:, 0])
    numbers = _numbers(
        {
            "id": (row_id(d.partition, d.offsets), 8),
            "kafka_partition": (d.partition, 4),
            "kafka_offset": (d.offsets, 8),
            "revision": (REVISION, 2),
            "event_time": (_time(payments.column("event_time").cast(pa.int64()).to_numpy()), 8),
            "ingested_at": (_time(d.ingested), 8),
            "processed_at": (_time(d.processed), 8),
        },
        len(d),
    )
    parts = [
        len(DECISION_COLUMNS).to_bytes(2, "big") + _field(d.topic.encode()),
        numbers,
        *(framed(texts(payments.column(name))) for name in TEXTS),
        framed(numerics(payments.column("amount").to_numpy())),
        _currency(payments.column("currency"), d.currency),
        coded([_verdict(verdict) for verdict in verdicts], codes),
        _field(d.ruleset.encode()),
        framed(fixed(d.scores.astype(">f4"), scored)),
        framed(_shares(d)),
        framed(fixed(d.features.astype("<f4"), ~without_features)),
        coded([_field(_text(d.side_inputs)), _field(None)], without_features.astype(np.int64)),
        *_shadow(d.shadow),
    ]
    order = payments.column("user_id").dictionary_encode().indices.to_numpy().argsort(kind="stable")
    body, _ = join(parts, order)
    return _file(body)


def _field(value: bytes | None) -> bytes:
    """One field as it stands in a COPY file."""
    return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value


def _numbers(columns: dict[str, tuple[npt.NDArray[np.int64] | int, int]], n: int) -> Column:
    """Integers that are never null, fields beside each other: values by name, each with its bytes."""
    kinds: list[tuple[str, str]] = []
    for name, (_, size) in columns.items():
        kinds += [(f"{name} size", ">i4"), (name, f">i{size}")]
    rows = np.empty(n, np.dtype(kinds))
    for name, (values, size) in columns.items():
        rows[f"{name} size"], rows[name] = size, values
    return fixed(rows)


Micros = TypeVar("Micros", int, npt.NDArray[np.int64])


def _time(micros: Micros) -> Micros:
    return micros - POSTGRES_EPOCH_US


def _currency(column: pa.Array, default: str) -> Column | bytes:
    if column.null_count == len(column):
        return _field(default.encode())
    return framed(texts(column.fill_null(default)))


def _verdict(verdict: Verdict) -> bytes:
    """The fields of VERDICT."""
    reasons = verdict.anomaly_reasons
    values: dict[str, bytes | None] = {
        "outcome": verdict.outcome.encode(),
        "unscored_reason": _text(verdict.unscored_reason),
        "is_anomaly": None if verdict.is_anomaly is None else verdict.is_anomaly.to_bytes(1, "big"),
        "anomaly_reasons": None if reasons is None else _text_array(reasons),
        "decision": _text(verdict.decision),
        "model_version": _text(verdict.model_version),
        "feature_set_id": _text(verdict.feature_set_id),
        "late": verdict.late.to_bytes(1, "big"),
    }
    return b"".join(_field(values[name]) for name in VERDICT)


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _array_head(items: int, oid: int) -> bytes:
    """A one-dimensional array without nulls begins so."""
    return np.array([1, 0, oid, items, 1] if items else [0, 0, oid], ">i4").tobytes()


def _text_array(items: tuple[str, ...]) -> bytes:
    return _array_head(len(items), TEXT_OID) + b"".join(_field(item.encode()) for item in items)


def _shares(d: Decisions) -> Column:
    """The shares of the reasons of explained payments as arrays of float4."""
    counts = (d.reasons != NO_REASON).sum(axis=1)  # reasons stand before the places without one
    heads = [_array_head(count, FLOAT4_OID) for count in range(MAX_REASONS + 1)]
    item = np.dtype([("size", ">i4"), ("share", ">f4")])
    rows = np.zeros(len(d), [("head", f"S{len(heads[-1])}"), ("items", item, (MAX_REASONS,))])
    rows["head"] = np.array(heads)[counts]
    rows["items"]["size"], rows["items"]["share"] = 4, d.shares
    lengths = np.where(counts > 0, len(heads[-1]) + item.itemsize * counts, len(heads[0]))
    column = fixed(rows)
    return replace(column, lengths=np.where(d.explained, lengths, NULL))


def _shadow(shadow: Shadow | None) -> list[Column | bytes]:
    """The challenger's version and score, both null where it has none."""
    if shadow is None:
        return [2 * _field(None)]
    scored = ~np.isnan(shadow.scores)
    version = coded([_field(None), _field(shadow.version.encode())], scored.astype(np.int64))
    return [version, framed(fixed(shadow.scores.astype(">f4"), scored))]


def dead_letter_copy(topic: str, partition: int, processed: int, letters: list[DeadLetter]) -> bytes:
    """All dead letters of a range as one COPY file."""
    parts: list[Column | bytes] = [
        len(DEAD_LETTER_COLUMNS).to_bytes(2, "big") + _field(topic.encode()),
        _numbers(
            {
                "kafka_partition": (partition, 4),
                "kafka_offset": (np.array([letter.offset for letter in letters]), 8),
                "payload_bytes": (np.array([letter.size for letter in letters]), 4),
                "ingested_at": (_time(np.array([letter.ingested for letter in letters])), 8),
                "processed_at": (_time(processed), 8),
            },
            len(letters),
        ),
        framed(texts(pa.array([letter.code for letter in letters], pa.string()))),
        framed(texts(pa.array([letter.detail for letter in letters], pa.string()))),
        framed(texts(pa.array([letter.payload for letter in letters], pa.binary()))),
        framed(texts(pa.array([letter.sha256 for letter in letters], pa.binary()))),
    ]
    body, _ = join(parts)
    return _file(body)


def _file(body: Bytes) -> bytes:
    return b"".join((HEADER, body.data, TRAILER))
