"""Replay with snapshots of merchants: each payment uses that of the day it arrived, and no label that came later."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo import settings
from feature_repo.features import NAMES
from feature_repo.kernel import CONFLICT, DUPLICATE
from feature_repo.snapshot import COLUMNS, NEUTRAL
from feature_repo.state import DAY, HOUR
from pipelines.replay import replay
from tests.unit.oracle import Payment
from tests.unit.streams import Log, long_stream
from tests.unit.test_replay import FIRST_ARRIVAL, history_of

EVERY = 2 * HOUR
ROWS = 500
PAYMENTS: list[Payment] = long_stream(8, size=ROWS)
ARRIVED = FIRST_ARRIVAL + EVERY * np.arange(ROWS)
REPORTED = {row: int(ARRIVED[row]) + 3 * DAY for row in range(0, ROWS, 7)}  # of one merchant in particular, see below
RISKY = PAYMENTS[0].merchant
REPORTED |= {row: int(ARRIVED[row]) + 2 * DAY for row in range(0, ROWS, 3) if PAYMENTS[row].merchant == RISKY}


@contextmanager
def replayed(reported: dict[int, int]) -> Iterator[tuple[dict[str, list[float]], pa.Table]]:
    """Vectors by transaction id, and the rows of merchants.parquet."""
    with TemporaryDirectory() as home:
        folder = Path(home) / "data" / "small"
        folder.mkdir(parents=True)
        pq.write_table(history_of(PAYMENTS, every_us=EVERY, reported=reported), folder / "history.parquet")
        done = replay(settings.load(home=Path(home)), "small")
        assert done.snapshots == ARRIVED[-1] // DAY - ARRIVED[0] // DAY
        table = pq.read_table(folder / "features.parquet")
        columns = [table[name].to_pylist() for name in NAMES]
        vectors = {name: list(row) for name, *row in zip(table["transaction_id"].to_pylist(), *columns, strict=True)}
        yield vectors, pq.read_table(folder / "merchants.parquet")


def test_a_payment_uses_the_snapshot_of_the_day_it_arrived() -> None:
    with replayed(REPORTED) as (vectors, merchants):
        by_day = {
            (row["event_timestamp"].timestamp() // 86_400, row["merchant"]): [row[name] for name in COLUMNS]
            for row in merchants.to_pylist()
        }
        log = Log(PAYMENTS)
        for row, payment in enumerate(PAYMENTS):
            known = by_day.get((ARRIVED[row] // DAY, payment.merchant), NEUTRAL)
            log.events.merchant_stats[row] = known
        features, flags = log.fold()
        kept = np.flatnonzero(flags & (DUPLICATE | CONFLICT) == 0)
        assert vectors == {PAYMENTS[row].id: features[row].tolist() for row in kept}
        risk = features[kept, NAMES.index("merchant_risk_30d")]
        assert (risk > 0).sum() > 50 and (risk <= 0).sum() > 50


def changed(before: dict[str, list[float]], after: dict[str, list[float]]) -> list[int]:
    """Rows whose vectors differ, each id where it came first."""
    rows = {payment.id: row for row, payment in reversed(list(enumerate(PAYMENTS)))}
    return sorted(rows[id] for id in before if before[id] != after[id])


def test_labels_that_come_later_change_features_from_the_day_they_would_have_come() -> None:
    late = {row: time + (4 * DAY if row > 200 else 0) for row, time in REPORTED.items()}
    with replayed(REPORTED) as (before, _), replayed(late) as (after, _):
        rows = changed(before, after)
    first_report = min(time for row, time in REPORTED.items() if row > 200)
    assert len(rows) > 20
    assert ARRIVED[rows[0]] // DAY == first_report // DAY + 1
    names = {name for id in before for name, a, b in zip(NAMES, before[id], after[id], strict=True) if a != b}
    assert names == {"merchant_risk_7d", "merchant_risk_30d"}


def test_labels_that_come_after_the_last_snapshot_change_nothing() -> None:
    last_midnight = int(ARRIVED[-1]) // DAY * DAY
    some = {row: time for row, time in REPORTED.items() if time < last_midnight}
    more = {row: last_midnight + row for row in range(ROWS) if row not in some}
    with replayed(some) as (before, _), replayed(some | more) as (after, _):
        assert before == after


def test_without_labels_every_merchant_is_as_risky_as_all() -> None:
    with replayed({}) as (vectors, merchants):
        assert {vector[NAMES.index("merchant_risk_7d")] for vector in vectors.values()} == {0.0}
        assert set(merchants["merchant_excess_risk_30d"].to_pylist()) == {0.0}
        assert max(vector[NAMES.index("merchant_volume_30d")] for vector in vectors.values()) > 1
