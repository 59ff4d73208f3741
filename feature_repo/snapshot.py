"""What is known of merchants at a moment: a daily snapshot, the side input of the kernel.

Replay, stream and detection look merchants up in the newest snapshot there was when a payment arrived, and
a decision names it by `id`. `merchants.py` makes snapshots, `snapshot_store.py` keeps the current one online.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from feature_repo.compiled import entry

Hashes = npt.NDArray[np.uint64]
Stats = npt.NDArray[np.float32]
MerchantLookup = Callable[[Hashes], Stats]  # merchant hashes [n] -> float32[n, len(COLUMNS)]

COLUMNS: tuple[str, ...] = (
    "merchant_count_7d",  # payments that arrived within 7 days before effective_at; for people, no feature
    "merchant_count_30d",
    "merchant_excess_risk_7d",  # frauds per payment beyond the rate of all merchants together, see merchants.py
    "merchant_excess_risk_30d",
)
# A merchant nothing is known of: no payments, and no risk beyond that of all merchants together.
NEUTRAL = np.zeros(len(COLUMNS), np.float32)
_ROW_BYTES = 8 + 4 * len(COLUMNS)


@dataclass(frozen=True)
class Snapshot:
    """Merchants by hash, ascending and distinct, each with a row of values in the order of COLUMNS."""

    effective_at: int  # microseconds since 1970 UTC: what had arrived before is in it, nothing later
    merchants: Hashes
    values: Stats  # [merchants, len(COLUMNS)]

    @cached_property
    def id(self) -> str:
        """Names the content: two snapshots with the same id give the same features."""
        return "ms_" + hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def look_up(self, merchants: Hashes) -> Stats:
        """Values of each merchant, NEUTRAL for one without a row."""
        out = np.empty((len(merchants), len(COLUMNS)), np.float32)
        _look_up(self.merchants, self.values, merchants, NEUTRAL, out)
        return out

    def to_bytes(self) -> bytes:
        """effective_at, the hashes, the values; little endian."""
        head = np.array([self.effective_at], "<i8").tobytes()
        return head + self.merchants.astype("<u8").tobytes() + self.values.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes, wanted: str) -> "Snapshot":
        """Raises ValueError where the bytes are not the snapshot `wanted`."""
        count, rest = divmod(len(raw) - 8, _ROW_BYTES)
        if count < 0 or rest:
            raise ValueError(f"{len(raw)} bytes are no snapshot")
        snapshot = cls(
            effective_at=int(np.frombuffer(raw, "<i8", 1)[0]),
            merchants=np.frombuffer(raw, "<u8", count, 8).copy(),  # writable, as everywhere: compiled once
            values=np.frombuffer(raw, "<f4", count * len(COLUMNS), 8 + 8 * count).reshape(count, len(COLUMNS)).copy(),
        )
        if snapshot.id != wanted:
            raise ValueError(f"the bytes are those of {snapshot.id}")
        return snapshot


def nobody() -> Snapshot:
    """A snapshot of one merchant nobody has: to have the look-up compiled."""
    return Snapshot(0, np.zeros(1, np.uint64), np.zeros((1, len(COLUMNS)), np.float32))


def lookup_in(snapshot: Snapshot | None) -> MerchantLookup:
    """How to look merchants up in the current snapshot; None means that none was ever made."""
    return no_snapshot if snapshot is None else snapshot.look_up


def no_snapshot(merchants: Hashes) -> Stats:
    """The look-up where no snapshot was ever made: every merchant is one nothing is known of."""
    return np.tile(NEUTRAL, (len(merchants), 1))


@entry
def _look_up(known: Hashes, values: Stats, merchants: Hashes, neutral: Stats, out: Stats) -> None:
    """Binary search."""
    for row in range(merchants.shape[0]):
        wanted = merchants[row]
        base, left = 0, known.shape[0]
        while left > 1:
            half = left >> 1
            base = base + half if known[base + half] <= wanted else base
            left -= half
        if known.shape[0] and known[base] == wanted:
            for column in range(neutral.shape[0]):
                out[row, column] = values[base, column]
        else:
            for column in range(neutral.shape[0]):
                out[row, column] = neutral[column]
