"""What one range of one partition came to: the decisions, the dead letters and the range itself.

These are the nouns between deciding (`partition`) and the stores (`ledger`, `publish`); the forms they
take in PostgreSQL and on Kafka are in `rows` and `documents`.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

OUTCOMES: tuple[str, ...] = ("scored", "unscored", "duplicate")
SCORED, UNSCORED, DUPLICATE = range(3)

# Why a payment has no score; the position is the code in Decisions.unscored, NOT_UNSCORED where it has one.
UNSCORED_REASONS: tuple[str, ...] = ("MODEL_DOWN", "FEATURE_SET_MISMATCH", "CURRENCY_UNSUPPORTED")
MODEL_DOWN, FEATURE_SET_MISMATCH, CURRENCY_UNSUPPORTED = range(3)
NOT_UNSCORED = 255

REVISION = 1  # what the stream decides; backfill appends higher ones


@dataclass(frozen=True)
class Decisions:
    """Accepted payments of one range in log order; arrays have one entry per payment."""

    topic: str
    partition: int
    payments: pa.RecordBatch  # transaction.SCHEMA
    offsets: npt.NDArray[np.int64]
    ingested: npt.NDArray[np.int64]  # the broker's timestamp, microseconds since 1970 UTC
    processed: int  # microseconds since 1970 UTC, one for the whole range
    outcome: npt.NDArray[np.uint8]  # position in OUTCOMES
    unscored: npt.NDArray[np.uint8]  # position in UNSCORED_REASONS
    scores: npt.NDArray[np.float32]  # [0, 1], means nothing unless outcome is SCORED
    is_anomaly: npt.NDArray[np.bool_]
    decision: npt.NDArray[np.uint8]  # position in serving.decision.DECISIONS, means nothing for a duplicate
    reasons: npt.NDArray[np.uint8]  # [n, 4] positions in features.REASONS, 255 for none
    shares: npt.NDArray[np.float32]  # [n, 4]
    features: npt.NDArray[np.float32]  # [n, WIDTH], NaN for a duplicate
    late: npt.NDArray[np.bool_]
    model_version: str | None
    feature_set_id: str | None
    ruleset: str
    side_inputs: str | None  # id of the snapshot of merchants behind the features
    currency: str  # where a payment names none

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class DeadLetter:
    """One record that was not accepted, with what is kept of it (never an unredacted card number)."""

    offset: int
    code: str
    detail: str
    payload: bytes
    size: int  # bytes of the original
    sha256: bytes
    ingested: int  # microseconds since 1970 UTC


@dataclass(frozen=True)
class Range:
    """One committed range of one partition: offsets first to until (exclusive)."""

    topic: str
    partition: int
    first: int
    until: int
    attempt: str
    processed: int
    model_version: str | None
    feature_set_id: str | None
    ruleset: str
    records: int
    dead_letters: int
    outcomes: dict[str, int] = field(default_factory=dict)


def moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


def decision_id(topic: str, partition: int, offset: int) -> str:
    """Stable name of what was decided about one record, in every store."""
    return f"{topic}-{partition}-{offset}"


def row_id(partition: int, offsets: npt.NDArray[np.int64], revision: int = REVISION) -> npt.NDArray[np.int64]:
    """`decisions.id`: 15 bits of partition, 44 of offset, 4 of revision; the same whoever computes it."""
    return (np.int64(partition) << 48) | (offsets << 4) | revision
