"""What one range of one partition came to: the decisions, the dead letters and the range itself.

These are the nouns between deciding (`partition`) and the stores (`ledger`, `publish`); the forms they
take in PostgreSQL and on Kafka are in `rows` and `documents`.
"""

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.features import REASONS
from serving.decision import DECISIONS
from serving.wire import NO_REASON

OUTCOMES: tuple[str, ...] = ("scored", "unscored", "duplicate")
SCORED, UNSCORED, DUPLICATE = range(3)

# Why a payment has no score; the position is the code in Decisions.unscored, NOT_UNSCORED where it has one.
UNSCORED_REASONS: tuple[str, ...] = (
    "MODEL_DOWN", "FEATURE_SET_MISMATCH", "CURRENCY_UNSUPPORTED", "RULES_ONLY", "MODEL_FAILED",
)  # fmt: skip
MODEL_DOWN, FEATURE_SET_MISMATCH, CURRENCY_UNSUPPORTED, RULES_ONLY, MODEL_FAILED = range(5)
NOT_UNSCORED = 255

REVISION = 1  # what the stream decides; backfill appends higher ones


class Verdict(NamedTuple):
    """What was decided about a payment, score apart: so few differ that each is written out once."""

    outcome: str
    unscored_reason: str | None
    is_anomaly: bool | None  # None without a score, as the next three
    anomaly_reasons: tuple[str, ...] | None  # strongest first; None as well for what was simply approved
    decision: str | None  # None for a duplicate
    model_version: str | None
    feature_set_id: str | None
    late: bool


@dataclass(frozen=True)
class Shadow:
    """What the challenger said of the same payments: kept beside the decisions, never part of them."""

    version: str
    scores: npt.NDArray[np.float32]  # [n], in [0, 1], NaN where it was not asked


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
    shadow: Shadow | None  # None where there is no challenger, or none that answered for all of the range

    def __len__(self) -> int:
        return len(self.offsets)

    def select(self, rows: slice) -> "Decisions":
        """Some of the payments, as they stand."""
        columns = {
            each.name: getattr(self, each.name)[rows]
            for each in fields(self)
            if isinstance(getattr(self, each.name), np.ndarray | pa.RecordBatch)
        }
        shadow = self.shadow and replace(self.shadow, scores=self.shadow.scores[rows])
        return replace(self, **columns, shadow=shadow)

    @property
    def explained(self) -> npt.NDArray[np.bool_]:
        """Rows that carry reasons: scored ones that were not simply approved."""
        return (self.outcome == SCORED) & ((self.decision != 0) | self.is_anomaly)

    @cached_property
    def verdicts(self) -> tuple[list[Verdict], npt.NDArray[np.int64]]:
        """The verdicts that differ, and the position among them of each payment's."""
        explained = self.explained
        reasons = np.ascontiguousarray(np.where(explained[:, None], self.reasons, NO_REASON).astype(np.uint8))
        key = reasons.view("<u4").reshape(-1).astype(np.int64)
        for values, bits in (
            (self.outcome, 2), (self.unscored, 8), (self.is_anomaly, 1), (self.decision, 2), (self.late, 1),
            (explained, 1),
        ):  # fmt: skip
            key = key << bits | values
        _, first, codes = np.unique(key, return_index=True, return_inverse=True)
        return [self._verdict(row) for row in first.tolist()], codes

    def _verdict(self, row: int) -> Verdict:
        scored, unscored = self.outcome[row] == SCORED, int(self.unscored[row])
        reasons = tuple(REASONS[code].value for code in self.reasons[row] if code != NO_REASON)
        return Verdict(
            outcome=OUTCOMES[self.outcome[row]],
            unscored_reason=None if unscored == NOT_UNSCORED else UNSCORED_REASONS[unscored],
            is_anomaly=bool(self.is_anomaly[row]) if scored else None,
            anomaly_reasons=reasons if self.explained[row] else None,
            decision=None if self.outcome[row] == DUPLICATE else DECISIONS[self.decision[row]],
            model_version=self.model_version if scored else None,
            feature_set_id=self.feature_set_id if scored else None,
            late=bool(self.late[row]),
        )


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
