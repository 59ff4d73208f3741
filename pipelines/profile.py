"""What a history looks like, as some hundred counts: enough to tell whether another one looks like it.

Texts are counted by a part of their hash, so that no value of the data stands in a report.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.hashing import hash_texts
from feature_repo.transaction import MAX_AMOUNT

Counts = npt.NDArray[np.int64]

BUCKETS = 32  # of a text's hash; one more counts where there is none
TEXTS = ("merchant", "location", "payment_method", "merchant_category", "channel")
HALVINGS = 2  # amounts are counted by half powers of two
_AMOUNTS = HALVINGS * (int(np.log2(MAX_AMOUNT)) + 1)
_LEAST_LOG = -14  # 0.0001, the least amount there is
MIN_FRAUDS = 20  # of either side, for their share to say anything
_HOUR_US = 3_600_000_000


class Profile:
    """Grows batch by batch. `counts` are by column: of hours UTC, of amounts, of texts, of what is given at all."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {
            "hour": np.zeros(24, np.int64),
            "amount": np.zeros(_AMOUNTS - HALVINGS * _LEAST_LOG, np.int64),
            "device": np.zeros(2, np.int64),
            "coordinates": np.zeros(2, np.int64),
            **{name: np.zeros(BUCKETS + 1, np.int64) for name in TEXTS},
        }
        self.rows = self.labelled = self.frauds = 0
        self.first, self.last = np.iinfo(np.int64).max, np.iinfo(np.int64).min

    def add(self, batch: pa.RecordBatch) -> None:
        """Of HISTORY_SCHEMA; nulls where the contract has none count nowhere."""
        self.rows += batch.num_rows
        self.labelled += batch.num_rows - batch["is_fraud"].null_count
        self.frauds += pc.sum(batch["is_fraud"]).as_py() or 0
        time = batch["event_time"].cast(pa.int64()).drop_null().to_numpy()
        if len(time):
            self.first, self.last = min(self.first, int(time.min())), max(self.last, int(time.max()))
        self._count("hour", time // _HOUR_US % 24)
        amount = batch["amount"].drop_null().to_numpy()
        self._count("amount", np.floor(HALVINGS * (np.log2(amount[amount > 0]) - _LEAST_LOG)))
        for name, column in (("device", "device_id"), ("coordinates", "latitude")):
            self._count(name, batch[column].is_valid().to_numpy(zero_copy_only=False))
        for name in TEXTS:
            hashes = hash_texts(batch[name], name)
            given = batch[name].is_valid().to_numpy(zero_copy_only=False)
            self._count(name, np.where(given, hashes % np.uint64(BUCKETS), BUCKETS))

    def _count(self, name: str, values: npt.NDArray[Any]) -> None:
        counts = self.counts[name]
        counts += np.bincount(values.astype(np.int64).clip(0, len(counts) - 1), minlength=len(counts))

    @property
    def days(self) -> float:
        """From the first payment to the last, at least one."""
        return max((self.last - self.first) / (24 * _HOUR_US), 1.0)

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows, "labelled": self.labelled, "frauds": self.frauds, "days": self.days,
            "counts": {name: counts.tolist() for name, counts in self.counts.items()},
        }  # fmt: skip


def shifts(now: Profile, before: Mapping[str, Any]) -> dict[str, float]:
    """How far a history is from an earlier one's `as_json`, by name: population stability index of each column
    beyond its mean where nothing has changed, and ratios (larger over smaller) of payments per day and fraud share.
    """
    found = {}
    for name, counts in now.counts.items():
        earlier = np.asarray(before["counts"].get(name, []))
        if len(earlier) == len(counts):
            found[f"{name}_shift"] = _excess(earlier, counts)
    found["pace_ratio"] = _ratio(now.rows / now.days, before["rows"] / before["days"])
    if min(now.frauds, before["frauds"]) >= MIN_FRAUDS:
        found["fraud_ratio"] = _ratio(now.frauds / now.labelled, before["frauds"] / before["labelled"])
    return found


def _excess(ours: Counts, theirs: Counts) -> float:
    """Half a value is added to every bin, so none is empty; the mean by chance is (bins - 1)(1/n + 1/m)."""
    used = (ours > 0) | (theirs > 0)
    ours, theirs = ours[used], theirs[used]
    if not ours.sum() or not theirs.sum():
        return 0.0  # a column without one value is another check's to name
    p, q = (ours + 0.5) / (ours.sum() + 0.5 * len(ours)), (theirs + 0.5) / (theirs.sum() + 0.5 * len(theirs))
    by_chance = (len(p) - 1) * (1 / ours.sum() + 1 / theirs.sum())
    return float(((q - p) * np.log(q / p)).sum() - by_chance)


def _ratio(one: float, other: float) -> float:
    return max(one, other) / max(min(one, other), 1e-12)
