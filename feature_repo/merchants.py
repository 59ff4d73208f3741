"""How snapshots of merchants are made: from payments and fraud reports that had arrived, day by day.

A snapshot of day D is effective at D's midnight (UTC) and holds what arrived before it. Per merchant:
  merchant_count_W           payments that arrived in the W days before D
  merchant_excess_risk_W     (reports - g payments) / (payments + k), frauds per payment beyond the usual, where
                             `reports` are frauds reported in the W days before D, `payments` arrived in the W
                             days that end as many days earlier as a report is usually late, g is reports per
                             payment over all merchants, and k is PRIOR_PAYMENTS
Reports come late, so those of the last days speak of payments made before them: the payments they are
compared with are shifted by the median delay of the reports of the last 30 days, in whole days. A report that is
more than MAX_DELAY days late does not count, one taken back counts in the snapshots of the days for which it
stood. Where no fraud was reported at all, no merchant is riskier than all are: 0.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.hashing import hash_texts
from feature_repo.slots import Slots
from feature_repo.snapshot import COLUMNS, Snapshot
from feature_repo.state import DAY

WINDOWS = (7, 30)  # days
MAX_DELAY = 60  # days; a report later than this is rare, and says nothing of what the merchant is now
LOOKBACK = max(WINDOWS) + MAX_DELAY  # days that a snapshot can be about; older arrivals need not be added
# Payments' worth of belief that a merchant is as all are: with less, one report makes a small merchant risky.
# On simulated payments the AUC of the risk over 7 and 30 days alone, for fraud at compromised merchants, was
# 0.81 and 0.77 at 10, 0.82 and 0.80 at 30, 0.83 and 0.83 at 100; but 100 hides a shop with ten payments a week.
PRIOR_PAYMENTS = 30.0

Ints = npt.NDArray[np.int64]

_US = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("merchant", pa.string(), nullable=False),
        pa.field("event_timestamp", _US, nullable=False),  # effective_at
        pa.field("created", _US, nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in COLUMNS),
    ]
)


@dataclass
class Arrivals:
    """Payments and reports counted per merchant and UTC day; `pay` and `report` everything, then ask for days."""

    _slots: Slots = field(default_factory=Slots)
    _names: list[pa.Array] = field(default_factory=list)
    _paid: list[Ints] = field(default_factory=list)  # [3, n]: day, merchant, payments
    _reported: list[Ints] = field(default_factory=list)  # [4, n]: day of report, merchant, days late, day taken back

    def pay(self, merchants: pa.Array, days: Ints, payments: Ints) -> None:
        """Payments counted already: by merchant name and UTC day of arrival, of a pair as often as it comes."""
        both, place = np.unique(days << 32 | self._codes(merchants), return_inverse=True)
        counts = np.bincount(place, weights=payments, minlength=len(both)).astype(np.int64)
        self._paid.append(np.stack([both >> 32, both & 0xFFFFFFFF, counts]))

    def report(self, merchants: pa.Array, arrived: Ints, since: Ints, until: Ints) -> None:
        """Payments claimed to be fraud: microseconds of arrival, of the claim, and of its end (verdicts.NEVER)."""
        late = np.maximum(since // DAY - arrived // DAY, 0)
        claims = np.stack([since // DAY, self._codes(merchants), late, until // DAY])[:, late <= MAX_DELAY]
        self._reported.append(claims[:, np.argsort(claims[0], kind="stable")])

    def _codes(self, merchants: pa.Array) -> Ints:
        codes, first = self._slots.place(hash_texts(merchants, "merchant"))
        self._names.append(merchants.take(pa.array(first)))
        return codes

    def snapshot(self, day: int) -> pa.RecordBatch:
        """The snapshot of a day (UTC days since 1970) as rows of SCHEMA; none where nothing had arrived lately."""
        paid, reported, size = _whole(self._paid, 3), _whole(self._reported, 4), len(self._slots)
        reported = reported[:, reported[3] >= day]  # not taken back before the day
        late = _between(reported, day - max(WINDOWS), day)[2]
        delay = int(np.median(late)) if len(late) else 0
        counts, risks = [], []
        for window in WINDOWS:
            counts.append(_sums(_between(paid, day - window, day), size))
            before = _sums(_between(paid, day - delay - window, day - delay), size)
            reports = np.bincount(_between(reported, day - window, day)[1], minlength=size)
            risks.append(_excess_risk(reports, before))
        lately = [_between(events, day - LOOKBACK, day)[1] for events in (paid, reported)]
        rows = np.unique(np.concatenate(lately))
        at = pa.array(np.full(len(rows), day * DAY)).cast(_US)
        names = pa.chunked_array(self._names, pa.string()).take(pa.array(rows)).combine_chunks()
        values = (pa.array(column[rows].astype(np.float32)) for column in (*counts, *risks))
        return pa.RecordBatch.from_arrays([names, at, at, *values], schema=SCHEMA)


def snapshot_of(rows: pa.RecordBatch, day: int) -> Snapshot:
    """Rows of Arrivals.snapshot as what payments look their merchants up in."""
    hashes = hash_texts(rows.column("merchant"), "merchant")
    order = np.argsort(hashes)
    values = np.stack([rows.column(name).to_numpy() for name in COLUMNS], axis=1)
    return Snapshot(day * DAY, hashes[order], np.ascontiguousarray(values[order]))


def _whole(pieces: list[Ints], rows: int) -> Ints:
    """All pieces as one, ascending by day, in their place: put together once, however many days are asked for."""
    if len(pieces) != 1:
        whole = np.concatenate([np.empty((rows, 0), np.int64), *pieces], axis=1)
        pieces[:] = [whole[:, np.argsort(whole[0], kind="stable")]]
    return pieces[0]


def _between(events: Ints, first: int, until: int) -> Ints:
    start, stop = np.searchsorted(events[0], [first, until])
    return events[:, start:stop]


def _sums(paid: Ints, size: int) -> npt.NDArray[np.float64]:
    return np.bincount(paid[1], weights=paid[2].astype(np.float64), minlength=size).astype(np.float64)


def _excess_risk(reports: Ints, payments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    payments = np.maximum(payments, reports)  # of a payment that arrived before the window too
    everywhere = reports.sum() / max(1.0, payments.sum())
    return (reports - everywhere * payments) / (payments + PRIOR_PAYMENTS)
