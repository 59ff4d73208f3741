"""Records as they come from Kafka, and the dead letters of those that cannot be decided."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from feature_repo.redaction import redact
from feature_repo.rejects import FIELDS, Rejects, kept_of
from streaming.decisions import DeadLetter

REKEYED, KEY_MISMATCH, ID_CONFLICT = "REKEYED", "KEY_MISMATCH", "ID_CONFLICT"
PROCESSING_FAILED = "PROCESSING_FAILED"
# Outcomes of records that are as their producer meant them: they never count towards SCHEMA_BREAK.
EXPECTED_CODES = frozenset({REKEYED, ID_CONFLICT, "TOMBSTONE"})

CONFLICT_DETAIL = "the user's transaction_id was used before for another payment"


@dataclass(frozen=True)
class Records:
    """A contiguous range of one Kafka partition in offset order; at least one record."""

    partition: int
    offsets: npt.NDArray[np.int64]
    values: pa.Array  # binary, null for a tombstone
    ingested: npt.NDArray[np.int64]  # broker's timestamp, microseconds since 1970 UTC
    moved: npt.NDArray[np.bool_]  # carries our header: was put in its place by as many partitions as there are now

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def until(self) -> int:
        return int(self.offsets[-1]) + 1

    def rejected(self, rejects: Rejects) -> list[DeadLetter]:
        """Dead letters of what the parser refused; it has redacted and cut the payloads."""
        return [
            DeadLetter(int(self.offsets[row]), code, detail, payload, size, sha256, int(self.ingested[row]))
            for row, code, detail, payload, size, sha256 in zip(
                rejects.rows.tolist(),
                rejects.codes,
                rejects.details,
                rejects.payloads,
                rejects.sizes.tolist(),
                rejects.sha256,
                strict=True,
            )
        ]

    def misplaced(self, row: int, belongs: int) -> DeadLetter:
        """A payment outside its user's partition: put in place once, a dead letter for good after that."""
        where = f"lies in partition {self.partition}, its user's payments in {belongs}"
        if self.moved[row]:
            return self._parsed(row, KEY_MISMATCH, f"{where}; it had been put in place before")
        return self._parsed(row, REKEYED, f"{where}; produced again there")

    def conflicting(self, row: int) -> DeadLetter:
        return self._parsed(row, ID_CONFLICT, CONFLICT_DETAIL)

    def without(self, rows: npt.NDArray[np.int64]) -> "Records":
        """The same range with nothing to read at these rows."""
        keep = np.ones(len(self), np.bool_)
        keep[rows] = False
        return replace(self, values=pa.compute.if_else(pa.array(keep), self.values, None))

    def failed(self, row: int, why: str) -> DeadLetter:
        """A record that could not be processed or stored. Nobody vouches for it, so little of it is kept."""
        payload = self.values[row].as_py() or b""
        digest = hashlib.sha256(payload).digest()
        offset, ingested = int(self.offsets[row]), int(self.ingested[row])
        return DeadLetter(offset, PROCESSING_FAILED, why, kept_of(payload), len(payload), digest, ingested)

    def _parsed(self, row: int, code: str, detail: str) -> DeadLetter:
        """A record the parser accepted, at most 64 KiB: what is kept of it can be produced again."""
        payload = self.values[row].as_py()
        digest = hashlib.sha256(payload).digest()
        offset, ingested = int(self.offsets[row]), int(self.ingested[row])
        return DeadLetter(offset, code, detail, _vouched_for(payload), len(payload), digest, ingested)


def _vouched_for(payload: bytes) -> bytes:
    """All of it as a rule. Where something looks like a card number, the contract's fields alone: the parser has
    looked into them, and passes over whatever else a producer sends."""
    if redact(payload) == payload:
        return payload
    return json.dumps({name: value for name, value in json.loads(payload).items() if name in FIELDS}).encode()
