"""Features of sampled decisions once more: payments in the order of the log, from empty states, bit for bit.

The parser and the kernel are the stream's own; what is not shared is everything between them: states kept in Redis
from batch to batch, ranges taken twice, the snapshot a batch was pinned to.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo import kernel, state
from feature_repo.features import NAMES
from feature_repo.hashing import events_of, hash_texts, partitions_of
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from feature_repo.snapshot import Hashes, MerchantLookup, Snapshot, Stats, no_snapshot
from feature_repo.state import States
from pipelines.replay import in_our_currency
from streaming.placement import Stretch

Place = tuple[int, int]  # partition and offset


@dataclass(frozen=True)
class Logged:
    """A decision as it was logged. `names` says what `vector` holds; `side_inputs` names the snapshot behind it."""

    partition: int
    offset: int
    transaction_id: str
    user_id: str
    late: bool
    names: tuple[str, ...]
    vector: npt.NDArray[np.float32]
    side_inputs: str | None

    @property
    def place(self) -> Place:
        return self.partition, self.offset


@dataclass(frozen=True)
class Mismatch:
    """What the raw payments give instead: features that differ, each with the logged value and the recomputed one.

    `what` says it where there is no vector to compare: the log holds no payment there, or it is a repeat.
    """

    logged: Logged
    what: str
    features: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        one = self.logged
        return {
            "kafka_partition": one.partition,
            "kafka_offset": one.offset,
            "transaction_id": one.transaction_id,
            "what": self.what,
            "features": {name: list(values) for name, values in self.features.items()},
        }


@dataclass(frozen=True)
class Recomputed:
    """What the raw payments give."""

    vector: npt.NDArray[np.float32]  # [WIDTH]; NaN for a payment that has none
    flags: int  # the kernel's


class Recomputation:
    """States of the sampled users, folded from nothing: first a history, where one seeded them, then the log."""

    def __init__(self, settings: Settings, sample: Iterable[Logged], snapshots: Mapping[str, Snapshot]) -> None:
        """`snapshots` by id; a decision whose snapshot is not among them cannot be checked, but its payment counts."""
        self._settings = settings
        self._sample = {one.place: one for one in sample}
        self._snapshots = snapshots
        self._users = pa.array(sorted({one.user_id for one in self._sample.values()}), pa.string())
        self._hashes = np.sort(hash_texts(self._users, "user_id"))
        self._states: States = state.empty(self._hashes)
        self._found: dict[Place, Recomputed] = {}
        self.seeded: set[str] = set()  # users a history has payments of

    def seed(self, payments: pa.RecordBatch) -> None:
        """Payments of a history in order of arrival, as `vigil replay --online` folded them."""
        payments = payments.filter(pc.is_in(payments.column("user_id"), self._users))
        self.seeded.update(pc.unique(payments.column("user_id")).to_pylist())
        self._fold(payments.filter(in_our_currency(payments, self._settings.currency)), no_snapshot)

    def take(
        self, stretch: Stretch, offsets: npt.NDArray[np.int64], values: pa.Array, ingested: npt.NDArray[np.int64]
    ) -> None:
        """Raw records of a stretch of the log: values as they came, `ingested` the broker's time in microseconds."""
        parsed = parse(values, ingested, ParseOptions.of(self._settings))
        users = parsed.payments.column("user_id")
        belongs = partitions_of(users, stretch.partitions, murmur2=self._settings.murmur2)
        mine = pc.and_(pc.is_in(users, self._users), pa.array(belongs == stretch.partition))
        mine = pc.and_(mine, in_our_currency(parsed.payments, self._settings.currency))
        payments, offsets = parsed.payments.filter(mine), offsets[parsed.rows[mine.to_numpy(zero_copy_only=False)]]
        wanted = [self._sample.get((stretch.partition, offset)) for offset in offsets.tolist()]
        features, flags = self._fold(payments, self._merchants(wanted))
        for row, one in enumerate(wanted):
            if one is not None:
                self._found[one.place] = Recomputed(features[row], int(flags[row]))

    def mismatches(self, checked: Iterable[Logged]) -> list[Mismatch]:
        """Which of these, of the sample, differ."""
        found = (compared(one, self._found.get(one.place)) for one in checked)
        return [mismatch for mismatch in found if mismatch is not None]

    def _merchants(self, wanted: Sequence[Logged | None]) -> MerchantLookup:
        """Each sampled payment's merchant in the snapshot its decision names; of the others nothing is asked."""
        named = np.array(["" if one is None else one.side_inputs or "" for one in wanted], object)

        def look_up(merchants: Hashes) -> Stats:
            values = no_snapshot(merchants)
            for name in set(named) & set(self._snapshots):
                values[named == name] = self._snapshots[name].look_up(merchants[named == name])
            return values

        return look_up

    def _fold(self, payments: pa.RecordBatch, merchants: MerchantLookup) -> tuple[Stats, npt.NDArray[np.uint8]]:
        events = events_of(payments, merchants)
        slots = np.searchsorted(self._hashes, events.user)
        return kernel.fold(self._states, slots, events, -1, np.full(len(slots), -1, np.int64))


def compared(logged: Logged, found: Recomputed | None) -> Mismatch | None:
    """None where every feature both have is the same, bit for bit, and the payment as late."""
    if found is None:
        return Mismatch(logged, "the log holds no such payment of this user at its offset")
    if found.flags & (kernel.DUPLICATE | kernel.CONFLICT):
        return Mismatch(logged, "by the log the transaction id was used before")
    differ = {
        name: (float(logged.vector[at]), float(found.vector[NAMES.index(name)]))
        for at, name in enumerate(logged.names)
        if name in NAMES and logged.vector[at].tobytes() != found.vector[NAMES.index(name)].tobytes()
    }
    if differ:
        return Mismatch(logged, f"{len(differ)} features differ", differ)
    if bool(found.flags & kernel.LATE) != logged.late:
        return Mismatch(logged, f"late is {logged.late}, by the log it is not so")
    return None
