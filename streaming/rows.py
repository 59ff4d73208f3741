"""Decisions and dead letters in PostgreSQL's binary COPY format, built from columns."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.features import REASONS
from serving.decision import DECISIONS
from streaming.columns import Bytes, Column, coded, constant, fixed, join, numerics, take, texts
from streaming.decisions import (
    DUPLICATE,
    OUTCOMES,
    REVISION,
    SCORED,
    UNSCORED_REASONS,
    DeadLetter,
    Decisions,
    row_id,
)

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01, what binary timestamps count from
TEXT_OID, FLOAT4_OID = 25, 700

DECISION_COLUMNS = (
    "id", "kafka_topic", "kafka_partition", "kafka_offset", "revision", "transaction_id", "user_id", "amount",
    "currency", "event_time", "merchant", "location", "payment_method", "outcome", "unscored_reason",
    "anomaly_score", "is_anomaly", "anomaly_reasons", "reason_shares", "decision", "model_version",
    "feature_set_id", "ruleset_version", "features", "late", "ingested_at", "processed_at",
    "side_inputs",
)  # fmt: skip
DEAD_LETTER_COLUMNS = (
    "kafka_topic", "kafka_partition", "kafka_offset", "code", "detail", "payload", "payload_bytes",
    "payload_sha256", "ingested_at", "processed_at",
)  # fmt: skip


def _int(values: npt.NDArray[np.integer], size: int) -> Column:
    return fixed(values.astype(f">i{size}"))


def _time(micros: npt.NDArray[np.int64]) -> Column:
    return _int(micros - POSTGRES_EPOCH_US, 8)


def _text_or_null(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _array(oid: int, items: list[bytes]) -> bytes:
    """A one-dimensional array without nulls in binary form."""
    head = np.array([1 if items else 0, 0, oid], ">i4").tobytes()
    dimension = np.array([len(items), 1], ">i4").tobytes() if items else b""
    return head + dimension + b"".join(len(item).to_bytes(4, "big") + item for item in items)


def _per_row(entries: dict[int, bytes], n: int) -> Column:
    """Bytes for the few rows that have any, null for the others."""
    table: list[bytes | None] = [None, *entries.values()]
    codes = np.zeros(n, np.int64)
    codes[list(entries)] = np.arange(1, len(table))
    return coded(table, codes)


def reason_codes(reasons: npt.NDArray[np.uint8]) -> list[str]:
    """Names of one row's reasons, strongest first."""
    return [REASONS[code].value for code in reasons if code != 255]


def explained(decisions: Decisions) -> npt.NDArray[np.int64]:
    """Rows that carry reasons: scored ones that were not simply approved."""
    return np.flatnonzero((decisions.outcome == SCORED) & ((decisions.decision != 0) | decisions.is_anomaly))


def decision_copy(d: Decisions) -> bytes:
    """All decisions as one COPY file, sorted by user so that the user index is written in runs."""
    n = len(d)
    payments = d.payments
    scored = d.outcome == SCORED
    not_duplicate = d.outcome != DUPLICATE
    reasons = {
        int(row): _array(TEXT_OID, [name.encode() for name in reason_codes(d.reasons[row])]) for row in explained(d)
    }
    shares = {
        int(row): _array(FLOAT4_OID, [s.tobytes() for s in d.shares[row][d.reasons[row] != 255].astype(">f4")])
        for row in explained(d)
    }
    currency = payments.column("currency")
    time = payments.column("event_time").cast(pa.int64()).to_numpy()
    columns = [
        _int(row_id(d.partition, d.offsets), 8),
        constant(d.topic.encode(), n),
        _int(np.full(n, d.partition), 4),
        _int(d.offsets, 8),
        _int(np.full(n, REVISION), 2),
        texts(payments.column("transaction_id")),
        texts(payments.column("user_id")),
        numerics(payments.column("amount").to_numpy()),
        texts(currency.fill_null(d.currency)) if currency.null_count < n else constant(d.currency.encode(), n),
        _time(time),
        texts(payments.column("merchant")),
        texts(payments.column("location")),
        texts(payments.column("payment_method")),
        coded([name.encode() for name in OUTCOMES], d.outcome),
        coded(
            [*(name.encode() for name in UNSCORED_REASONS), None],
            np.minimum(d.unscored, len(UNSCORED_REASONS)),
        ),
        fixed(d.scores.astype(">f4"), scored),
        fixed(d.is_anomaly, scored),
        _per_row(reasons, n),
        _per_row(shares, n),
        coded(
            [*(name.encode() for name in DECISIONS), None],
            np.where(not_duplicate, d.decision, len(DECISIONS)),
        ),
        coded([_text_or_null(d.model_version), None], np.where(scored, 0, 1)),
        coded([_text_or_null(d.feature_set_id), None], np.where(scored, 0, 1)),
        constant(d.ruleset.encode(), n),
        fixed(d.features.astype("<f4"), ~np.isnan(d.features[:, 0])),
        fixed(d.late),
        _time(d.ingested),
        _time(np.full(n, d.processed)),
        coded([_text_or_null(d.side_inputs), None], np.isnan(d.features[:, 0]).astype(np.int64)),
    ]
    order = payments.column("user_id").dictionary_encode().indices.to_numpy().argsort(kind="stable")
    body, _ = join([take(column, order) for column in columns], framed=True)
    return _file(body)


def dead_letter_copy(topic: str, partition: int, processed: int, letters: list[DeadLetter]) -> bytes:
    """All dead letters of a range as one COPY file."""
    n = len(letters)
    columns = [
        constant(topic.encode(), n),
        _int(np.full(n, partition), 4),
        _int(np.array([letter.offset for letter in letters]), 8),
        texts(pa.array([letter.code for letter in letters], pa.string())),
        texts(pa.array([letter.detail for letter in letters], pa.string())),
        texts(pa.array([letter.payload for letter in letters], pa.binary())),
        _int(np.array([letter.size for letter in letters]), 4),
        texts(pa.array([letter.sha256 for letter in letters], pa.binary())),
        _time(np.array([letter.ingested for letter in letters])),
        _time(np.full(n, processed)),
    ]
    body, _ = join(columns, framed=True)
    return _file(body)


def _file(body: Bytes) -> bytes:
    return HEADER + body.tobytes() + TRAILER
