"""Replay: a history through the kernel gives what the stream gives, and says what it left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo import kernel, layouts, settings, state
from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.features import NAMES
from feature_repo.hashing import hash_texts
from feature_repo.kernel import CONFLICT, DUPLICATE, LATE
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from feature_repo.transaction import HISTORY_SCHEMA, SCHEMA
from pipelines import replay as replaying
from pipelines.replay import replay
from tests.unit.oracle import Payment
from tests.unit.streams import Log, batch_of, long_stream

US = pa.timestamp("us", tz="UTC")
FIRST_ARRIVAL = 2**50  # six in the morning: no test here reaches a midnight, and the first snapshot

Write = Callable[..., Settings]


def history_of(
    payments: list[Payment],
    currencies: list[str | None] | None = None,
    every_us: int = 1_000_000,
    reported: dict[int, int] | None = None,
) -> pa.Table:
    """Payments as an import leaves them: one arrives each second; `reported` has times of fraud reports by row."""
    batch = batch_of(payments)
    n = len(payments)
    arrivals = pa.array(every_us * np.arange(n) + FIRST_ARRIVAL).cast(US)
    columns = {name: batch.column(name) for name in SCHEMA.names}
    columns["currency"] = pa.array(currencies or [None] * n, pa.string())
    columns |= {
        "arrival_time": arrivals,
        "is_fraud": pa.nulls(n, pa.bool_()) if reported is None else pa.array([row in reported for row in range(n)]),
        "label_time": pa.array([(reported or {}).get(row) for row in range(n)], pa.int64()).cast(US),
    }
    return pa.table([columns[field.name] for field in HISTORY_SCHEMA], schema=HISTORY_SCHEMA)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a history as data set `small`; batches are small, so that several are folded."""
    monkeypatch.setattr(replaying, "BATCH_ROWS", 128)

    def make(table: pa.Table) -> Settings:
        folder = tmp_path / "data" / "small"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "history.parquet", row_group_size=200)
        return settings.load(home=tmp_path)

    return make


def read(home: Settings, name: str) -> pa.Table:
    return pq.read_table(home.home / "data" / "small" / f"{name}.parquet")


def test_everything_left_out_is_counted(write: Write) -> None:
    payments = long_stream(3, size=700)
    _, flags = Log(payments).fold()
    done = replay(write(history_of(payments)), "small")
    assert (done.payments, done.users) == (700, 3)
    assert done.late == int((flags & LATE > 0).sum()) > 0
    assert done.duplicates == int((flags & DUPLICATE > 0).sum()) > 0
    assert done.conflicts == int((flags & CONFLICT > 0).sum()) > 0
    assert done.rows == 700 - done.duplicates - done.conflicts


def test_vectors_are_bit_for_bit_what_one_fold_gives(write: Write) -> None:
    payments = long_stream(3, size=700)
    home = write(history_of(payments))
    replay(home, "small")
    features, flags = Log(payments, no_snapshot).fold()
    kept = np.flatnonzero(flags & (DUPLICATE | CONFLICT) == 0)
    table = read(home, "features")
    assert table.column_names == ["transaction_id", "user_id", "event_timestamp", "created", *NAMES]
    vectors = np.stack([table[name].to_numpy() for name in NAMES], axis=1)
    assert vectors.dtype == np.float32
    assert vectors.tobytes() == features[kept].tobytes()
    assert table["transaction_id"].to_pylist() == [payments[row].id for row in kept]
    assert table["user_id"].to_pylist() == [payments[row].user for row in kept]
    assert table["event_timestamp"].cast(pa.int64()).to_pylist() == [payments[row].time for row in kept]
    assert table["created"].cast(pa.int64()).to_pylist() == [2**50 + 1_000_000 * int(row) for row in kept]


def test_states_file_has_the_sealed_records_outside_kafka(write: Write) -> None:
    payments = long_stream(4, size=300)
    home = write(history_of(payments))
    replay(home, "small")
    log = Log(payments)
    kernel.fold(log.states, log.slots, log.events, -1, np.full(len(payments), -1))
    state.seal(log.states)
    table = read(home, "states")
    users = hash_texts(table["user_id"].combine_chunks(), "user_id")
    records = layouts.read(table["state"].to_pylist(), users)
    expected = {record["user"]: record.tobytes() for record in log.states}
    assert {record["user"]: record.tobytes() for record in records} == expected
    assert (records["partition"] == -1).all()
    assert (records["offset"] == -1).all()
    assert table["payments"].to_pylist() == records["count"].tolist()


def test_other_currencies_are_left_out_of_vectors_and_states(write: Write) -> None:
    payments = long_stream(5, size=300)
    dear = [replace(p, amount=1e9, id=f"x{p.id}") for p in payments[::3]]
    mixed = [p for pair in zip(payments[::3], dear, strict=True) for p in pair]
    currencies = [c for _ in dear for c in ("USD", "JPY")]
    done = replay(write(history_of(mixed, currencies)), "small")
    assert done.other_currency == len(dear)
    assert done.payments == len(mixed)
    assert done.rows == int((Log(payments[::3]).fold()[1] & (DUPLICATE | CONFLICT) == 0).sum())


def test_progress_ends_at_the_number_of_payments(write: Write) -> None:
    seen: list[tuple[int, int]] = []
    replay(write(history_of(long_stream(6, size=300))), "small", progress=lambda *step: seen.append(step))
    assert seen == [(128, 300), (256, 300), (300, 300)]


def test_an_empty_history_gives_empty_files(write: Write) -> None:
    home = write(history_of([]))
    done = replay(home, "small")
    assert (done.rows, done.users) == (0, 0)
    assert read(home, "features").num_rows == read(home, "states").num_rows == 0


def test_a_history_out_of_order_is_refused_and_leaves_nothing(write: Write) -> None:
    table = history_of(long_stream(6, size=300))
    home = write(pa.concat_tables([table.slice(200), table.slice(0, 200)]))
    with pytest.raises(DataInvalid, match="not sorted by arrival_time between rows 0 and 128"):
        replay(home, "small")
    assert [p.name for p in (home.home / "data" / "small").iterdir()] == ["history.parquet"]


def test_a_missing_history_or_column_is_named(write: Write) -> None:
    home = write(history_of(long_stream(6, size=10)).drop_columns(["device_id"]))
    with pytest.raises(DataInvalid, match="no column device_id"):
        replay(home, "small")
    with pytest.raises(BadConfiguration, match="nothing"):
        replay(home, "nothing")
