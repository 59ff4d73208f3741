"""Rows of any number in order of arrival: sorted runs on disk, merged as they are read (external merge sort).

Memory holds one run while rows are added and a batch of each overlapping run while they are merged, so a file
that is in order already costs no more than one batch. Ties keep the order in which rows were added.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

RUN_ROWS = 524_288
BATCH_ROWS = 16_384
END = np.iinfo(np.int64).max
_FAST = pa.ipc.IpcWriteOptions(compression="lz4")


class ArrivalOrder:
    """Rows of `schema`, which has the columns arrival_time and id, a hash. A context: its files go when it ends."""

    def __init__(self, folder: Path, schema: pa.Schema, run_rows: int) -> None:
        self.schema = schema
        self.folder = folder
        self._run_rows = run_rows
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._runs: list[tuple[int, Path]] = []  # first arrival, file
        self._ids: list[npt.NDArray[np.uint64]] = []

    def __enter__(self) -> "ArrivalOrder":
        shutil.rmtree(self.folder, ignore_errors=True)  # left by a process that was killed
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._ids.append(batch["id"].to_numpy())
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= self._run_rows:
            self._write_run()

    def ids(self) -> npt.NDArray[np.uint64]:
        """Of all rows, as they were added: eight bytes of memory for each. Once only."""
        ids, self._ids = np.concatenate([np.empty(0, np.uint64), *self._ids]), []
        return ids

    def merged(self) -> Iterator[pa.Table]:
        """All rows, in tables of very different sizes. Once only."""
        self._write_run()
        # A run is opened when its first row is due; the list keeps the order in which the rows were added.
        closed = [_Run(first, path) for first, path in self._runs]
        while closed:
            due = min(run.last if run.more else END if run.open else run.first for run in closed)
            tables = [run.before(due) for run in closed if run.open]
            rows = pa.concat_tables([self.schema.empty_table(), *tables])
            if rows.num_rows:
                yield _sorted(rows)
            for run in closed:
                if (run.open and run.more and run.last == due) or (not run.open and run.first == due):
                    run.load()
            closed = [run for run in closed if not run.done]

    def _write_run(self) -> None:
        if not self._waiting_rows:
            return
        rows = _sorted(pa.Table.from_batches(self._waiting, self.schema))
        self._waiting, self._waiting_rows = [], 0
        path = self.folder / f"{len(self._runs):06d}.arrow"
        with pa.ipc.new_file(path, self.schema, options=_FAST) as writer:
            writer.write_table(rows, max_chunksize=BATCH_ROWS)
        self._runs.append((int(_arrivals(rows)[0]), path))


class _Run:
    """A sorted file read batch by batch. `last` is the last arrival of the rows in hand."""

    def __init__(self, first: int, path: Path) -> None:
        self.first = first
        self.last = first
        self.open = False
        self.more = False
        self._path = path
        self._next = 0
        self._rows: pa.Table | None = None

    @property
    def done(self) -> bool:
        return self.open and not self.more and not (self._rows and self._rows.num_rows)

    def load(self) -> None:
        """One batch more in hand."""
        with pa.ipc.open_file(self._path) as file:
            batch = pa.Table.from_batches([file.get_batch(self._next)])
            self._next += 1
            self.open, self.more = True, self._next < file.num_record_batches
        self._rows = pa.concat_tables([self._rows, batch]) if self._rows else batch
        self.last = int(_arrivals(self._rows)[-1])

    def before(self, due: int) -> pa.Table:
        """Takes the rows in hand that arrived before `due`; all of them where due is END."""
        assert self._rows is not None, "open runs hold rows"
        count = int(np.searchsorted(_arrivals(self._rows), due, side="right" if due == END else "left"))
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return taken


class Repeated:
    """Ids that occur more than once: of each, the row that comes first stays."""

    def __init__(self, ids: npt.NDArray[np.uint64]) -> None:
        """Of all rows; sorts `ids` in place."""
        ids.sort()
        self._ids = np.unique(ids[1:][ids[1:] == ids[:-1]])
        self._payload = np.zeros(len(self._ids), np.uint64)
        self._seen = np.zeros(len(self._ids), dtype=bool)

    def first(self, rows: pa.Table) -> tuple[pa.Table, list[tuple[int, bool]]]:
        """The rows whose ids have not been seen; of the others their `row`, and whether their `payload` is the same."""
        if not len(self._ids):
            return rows, []
        ids, payloads = rows["id"].to_numpy(), rows["payload"].to_numpy()
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        keep = np.ones(len(ids), dtype=bool)
        again: list[tuple[int, bool]] = []
        for at in np.flatnonzero(self._ids[place] == ids).tolist():
            which = place[at]
            if self._seen[which]:
                keep[at] = False
                again.append((rows["row"][at].as_py(), bool(self._payload[which] == payloads[at])))
            else:
                self._seen[which], self._payload[which] = True, payloads[at]
        return rows.filter(pa.array(keep)), again


def _sorted(rows: pa.Table) -> pa.Table:
    arrivals = _arrivals(rows)
    if (np.diff(arrivals) >= 0).all():
        return rows
    return rows.combine_chunks().take(pa.array(np.argsort(arrivals, kind="stable")))


def _arrivals(rows: pa.Table) -> npt.NDArray[np.int64]:
    return pc.cast(rows["arrival_time"], pa.int64()).to_numpy()
