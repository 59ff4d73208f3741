"""Sorting by arrival on disk: the same as sorting everything at once, whatever the order, ties and run size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import arrival_order
from pipelines.arrival_order import ArrivalOrder

SCHEMA = pa.schema([("arrival_time", pa.timestamp("us", tz="UTC")), ("row", pa.int64()), ("id", pa.uint64())])


def _batch(arrivals: Sequence[int], rows: Sequence[int]) -> pa.RecordBatch:
    ids = np.array(rows, np.uint64)
    return pa.RecordBatch.from_arrays(
        [pa.array(arrivals).cast(SCHEMA.types[0]), pa.array(rows), pa.array(ids)], schema=SCHEMA
    )


def _merged(folder: Path, arrivals: list[int], run_rows: int, batch_rows: int) -> list[int]:
    """Rows as they come out, added `batch_rows` at a time."""
    with ArrivalOrder(folder, SCHEMA, run_rows) as order:
        for start in range(0, len(arrivals), batch_rows):
            part = arrivals[start : start + batch_rows]
            order.add(_batch(part, range(start, start + len(part))))
        return [row for table in order.merged() for row in table["row"].to_pylist()]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-5, 30), max_size=200), st.integers(1, 40), st.integers(1, 30))
def test_rows_come_in_order_of_arrival_and_ties_as_they_were_added(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[int], run_rows: int, batch_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrival_order, "BATCH_ROWS", 7)
        merged = _merged(tmp_path_factory.mktemp("runs") / "f", arrivals, run_rows, batch_rows)
    assert merged == np.argsort(arrivals, kind="stable").tolist()


def test_a_file_in_order_is_never_held_in_more_than_a_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival_order, "BATCH_ROWS", 10)
    with ArrivalOrder(tmp_path / "f", SCHEMA, 100) as order:
        for start in range(0, 1_000, 50):
            order.add(_batch(range(start, start + 50), range(start, start + 50)))
        sizes = [table.num_rows for table in order.merged()]
    assert sum(sizes) == 1_000
    assert max(sizes) <= 20


def test_nothing_is_left_behind_even_by_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "000000.arrow").write_bytes(b"left over")
    assert _merged(tmp_path / "f", [3, 1, 2], 2, 2) == [1, 2, 0]
    assert not (tmp_path / "f").exists()
