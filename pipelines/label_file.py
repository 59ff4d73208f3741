"""Labels that lie in a file of their own, met with the payments of an import by transaction id.

A file without a column is_fraud lists frauds. A payment the file does not name is one nobody reported; of
several labels for one payment the latest counts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.hashing import hash_texts
from pipelines import columns as columns_of
from pipelines.columns import Plan
from pipelines.table_file import TableFile

_US = pa.timestamp("us", tz="UTC")
_NEVER = np.iinfo(np.int64).min


@dataclass
class LabelFile:
    """`ids` are ascending hashes of transaction ids, each once; a `time` of _NEVER is none."""

    path: Path
    ids: npt.NDArray[np.uint64]
    is_fraud: npt.NDArray[np.bool_]
    time: npt.NDArray[np.int64]  # microseconds since 1970
    refused: Counter[str] = field(default_factory=Counter)
    met: npt.NDArray[np.bool_] = field(init=False)  # which labels met a payment

    def __post_init__(self) -> None:
        self.met = np.zeros(len(self.ids), dtype=bool)

    @classmethod
    def read(cls, file: TableFile, columns: Mapping[str, str], times: Plan) -> "LabelFile":
        """`times` says how times are written. Raises BadConfiguration where the file lacks a column."""
        plan = Plan.of_labels(file.names, columns, times)
        refused: Counter[str] = Counter()
        parts: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]] = []
        for batch in file.batches(lambda _row, _why: refused.update(["CSV_ROW"])):
            time, bad_time = columns_of.times(batch, "label_time", plan)
            fraud, bad_fraud = columns_of.is_fraud(batch, plan)
            ids = columns_of.as_text(batch[plan.columns["transaction_id"]])
            known = fraud.is_valid() if "is_fraud" in plan.columns else pa.array(np.ones(batch.num_rows, dtype=bool))
            good = known.to_numpy(zero_copy_only=False) & ids.is_valid().to_numpy(zero_copy_only=False) & ~bad_time
            refused.update(
                {"LABEL_TIME_FORMAT": int(bad_time.sum()), "LABEL_FORMAT": int((bad_fraud & ~bad_time).sum())}
            )
            parts.append(
                (
                    hash_texts(ids, "transaction_id")[good],
                    fraud.fill_null(True).to_numpy(zero_copy_only=False)[good],
                    time.cast(pa.int64()).fill_null(_NEVER).to_numpy()[good],
                )
            )
        ids, is_fraud, time = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else _NOTHING
        order = np.lexsort((time, ids))
        last = order[np.append(np.diff(ids[order]) != 0, True)] if len(order) else order
        return cls(file.path, ids[last], is_fraud[last], time[last], +refused)

    def as_json(self) -> dict[str, Any]:
        met = int(self.met.sum())
        return {
            "file": str(self.path), "labels": len(self.ids), "met": met, "without_payment": len(self.ids) - met,
            "refused": dict(self.refused),
        }  # fmt: skip

    def look_up(self, transaction_ids: pa.StringArray) -> tuple[pa.BooleanArray, pa.TimestampArray]:
        """is_fraud and label_time of payments; false without a time where nothing was reported."""
        hashes = hash_texts(transaction_ids, "transaction_id")
        place = np.minimum(np.searchsorted(self.ids, hashes), max(len(self.ids) - 1, 0))
        found = self.ids[place] == hashes if len(self.ids) else np.zeros(len(hashes), dtype=bool)
        self.met[place[found]] = True
        fraud, time = np.zeros(len(hashes), dtype=bool), np.full(len(hashes), _NEVER)
        fraud[found], time[found] = self.is_fraud[place[found]], self.time[place[found]]
        return pa.array(fraud), pa.array(time, mask=time == _NEVER).cast(_US)


_NOTHING = (np.empty(0, np.uint64), np.empty(0, dtype=bool), np.empty(0, np.int64))
