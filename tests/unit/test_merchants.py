"""Snapshots of merchants against a naive count, and what late labels may and may not change."""

import pickle
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import DependencyDown, SnapshotUnreadable
from feature_repo.merchants import LOOKBACK, MAX_DELAY, PRIOR_PAYMENTS, WINDOWS, Arrivals, snapshot_of
from feature_repo.snapshot import COLUMNS, NEUTRAL, Snapshot, no_snapshot
from feature_repo.state import DAY, HOUR
from feature_repo.verdicts import NEVER
from tests.unit.streams import KNOWN, MERCHANTS
from tests.unit.streams import snapshot_of as snapshot_saying

TODAY = 20_000  # UTC days since 1970
MIDNIGHT = TODAY * DAY


@dataclass(frozen=True)
class Paid:
    """One payment: where, when it arrived, when it was reported as fraud, if ever, and when that was taken back."""

    merchant: str
    arrived: int
    reported: int | None = None
    taken_back: int = NEVER


def paid_at(merchant: str, ago: int, later: int | None, stood: int | None) -> Paid:
    reported = None if later is None else MIDNIGHT - ago + later
    return Paid(merchant, MIDNIGHT - ago, reported, NEVER if None in (stood, reported) else reported + stood)


paid = st.builds(
    paid_at,
    st.sampled_from(MERCHANTS),
    st.integers(-10 * DAY, 130 * DAY),
    st.none() | st.integers(0, 80 * DAY),
    st.none() | st.integers(1, 80 * DAY),
)


def arrivals_of(payments: list[Paid], pieces: int = 1) -> Arrivals:
    arrivals = Arrivals()
    for piece in range(pieces):
        some = payments[piece::pieces]
        days = np.array([p.arrived // DAY for p in some], np.int64)
        arrivals.pay(pa.array([p.merchant for p in some], pa.string()), days, np.ones(len(some), np.int64))
        frauds = [(p.merchant, p.arrived, p.reported, p.taken_back) for p in some if p.reported is not None]
        merchants, *times = zip(*frauds, strict=True) if frauds else ((), (), (), ())
        arrivals.report(pa.array(merchants, pa.string()), *(np.array(time, np.int64) for time in times))
    return arrivals


def rows(payments: list[Paid], day: int = TODAY) -> dict[str, tuple[float, ...]]:
    """The snapshot of a day, by merchant."""
    table = arrivals_of(payments).snapshot(day).to_pylist()
    return {row["merchant"]: tuple(row[name] for name in COLUMNS) for row in table}


def meant(payments: list[Paid], day: int) -> dict[str, tuple[float, ...]]:
    """What a snapshot should hold, counted payment by payment."""
    midnight = day * DAY
    payments = [replace(p, reported=None) if too_late(p) else p for p in payments]
    frauds = [p for p in payments if p.reported is not None and p.reported < midnight <= p.taken_back]
    late = [
        p.reported // DAY - p.arrived // DAY
        for p in frauds
        if p.reported is not None and p.reported >= midnight - 30 * DAY
    ]
    shift = int(median(late)) * DAY if late else 0
    out: dict[str, list[float]] = {name: [] for name in lately(payments, midnight)}

    def arrived(window: int, before: int, merchant: str | None) -> int:
        return sum(
            midnight - before - window * DAY <= p.arrived < midnight - before and merchant in (None, p.merchant)
            for p in payments
        )

    def reports(window: int, merchant: str) -> int:
        return sum(p.merchant == merchant and (p.reported or 0) >= midnight - window * DAY for p in frauds)

    for name, values in out.items():
        values += [arrived(window, 0, name) for window in WINDOWS]
        for window in WINDOWS:
            everyone = {m: (reports(window, m), arrived(window, shift, m)) for m in MERCHANTS}
            all_reports = sum(r for r, _ in everyone.values())
            everywhere = all_reports / max(1, sum(max(r, n) for r, n in everyone.values()))
            known, payments_then = everyone[name]
            possible = max(known, payments_then)
            values.append((known - everywhere * possible) / (possible + PRIOR_PAYMENTS))
    return {name: tuple(values) for name, values in out.items()}


def too_late(paid: Paid) -> bool:
    return paid.reported is not None and paid.reported // DAY - paid.arrived // DAY > MAX_DELAY


def lately(payments: list[Paid], midnight: int) -> set[str]:
    """Merchants somebody paid or reported in the days a snapshot looks back on."""
    first = midnight - LOOKBACK * DAY
    return {
        p.merchant
        for p in payments
        if first <= p.arrived < midnight or (p.reported is not None and first <= p.reported < midnight <= p.taken_back)
    }


@settings(max_examples=200)
@given(st.lists(paid, max_size=40), st.integers(-3, 12), st.integers(1, 3))
def test_a_snapshot_means_what_counting_says(payments: list[Paid], later: int, pieces: int) -> None:
    day = TODAY + later
    arrivals = arrivals_of(payments, pieces)
    arrivals.snapshot(TODAY)  # asking for another day first changes nothing
    table = arrivals.snapshot(day)
    assert set(table.column("event_timestamp").cast(pa.int64()).to_pylist()) <= {day * DAY}
    got = {row["merchant"]: tuple(row[name] for name in COLUMNS) for row in table.to_pylist()}
    expected = meant(payments, day)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name] == pytest.approx(values, rel=1e-6, abs=1e-9), name


@settings(max_examples=100)
@given(st.lists(paid, max_size=30), st.lists(paid, max_size=10))
def test_what_arrives_after_midnight_changes_nothing(payments: list[Paid], more: list[Paid]) -> None:
    unknown_yet = [replace(p, arrived=MIDNIGHT + abs(p.arrived - MIDNIGHT), reported=None) for p in more]
    later = [replace(p, reported=max(MIDNIGHT, p.reported)) if p.reported else p for p in payments]
    never = [replace(p, reported=None if p.reported >= MIDNIGHT else p.reported) if p.reported else p for p in later]
    assert rows(later + unknown_yet) == rows(never)


def test_a_report_after_more_than_sixty_days_says_nothing_of_the_merchant() -> None:
    name, other = MERCHANTS[:2]
    reported = (TODAY - 5) * DAY
    for late, counts in ((MAX_DELAY, True), (MAX_DELAY + 1, False)):
        arrived = reported - late * DAY
        found = rows([Paid(name, arrived, reported), *5 * [Paid(other, arrived)], Paid(name, reported)])
        assert (found[name][-1] > 0) == counts


def test_shifting_the_arrival_of_labels_changes_the_risk() -> None:
    """Reports of one merchant's frauds come a day before midnight, and then a second after it."""
    payments = [Paid(m, MIDNIGHT - (8 + i % 6) * DAY) for m in MERCHANTS for i in range(30)]
    frauds = [Paid(MERCHANTS[0], MIDNIGHT - (8 + i) * DAY, MIDNIGHT - DAY) for i in range(5)]
    known = rows(payments + frauds)
    assert known[MERCHANTS[0]][2] > 0.05 > 0 > known[MERCHANTS[1]][2]
    early = rows(payments + [replace(p, reported=MIDNIGHT - 9 * DAY) for p in frauds])
    assert early[MERCHANTS[0]][2] == 0.0 < early[MERCHANTS[0]][3]
    late = rows(payments + [replace(p, reported=MIDNIGHT) for p in frauds])
    assert {values[2:] for values in late.values()} == {(0.0, 0.0)}
    assert rows(payments + frauds, TODAY + 40)[MERCHANTS[0]] == (0.0, 0.0, 0.0, 0.0)


def test_a_snapshot_is_looked_up_by_hash_and_knows_what_it_does_not_know() -> None:
    payments = [Paid(m, MIDNIGHT - HOUR) for m in MERCHANTS for _ in range(3)]
    snapshot = snapshot_of(arrivals_of(payments).snapshot(TODAY), TODAY)
    assert (np.diff(snapshot.merchants) > 0).all()
    asked = np.array([snapshot.merchants[5], 1, snapshot.merchants[0], 2**64 - 1, snapshot.merchants[-1]], np.uint64)
    found = snapshot.look_up(asked)
    assert found[[0, 2, 4]].tolist() == [[3.0, 3.0, 0.0, 0.0]] * 3
    assert found[[1, 3]].tolist() == no_snapshot(asked[:2]).tolist() == [NEUTRAL.tolist()] * 2
    empty = snapshot_of(arrivals_of([]).snapshot(TODAY), TODAY)
    assert empty.look_up(asked).tolist() == no_snapshot(asked).tolist()


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=40), st.lists(st.integers(0, 2**64 - 1)))
def test_every_merchant_of_a_snapshot_is_found_and_no_other(known: list[int], others: list[int]) -> None:
    merchants = np.sort(np.array(known, np.uint64))
    values = np.arange(4 * len(known), dtype=np.float32).reshape(-1, 4) + 10
    asked = np.array([*known, *others], np.uint64)
    found = Snapshot(0, merchants, values).look_up(asked)
    for merchant, row in zip(asked.tolist(), found, strict=True):
        at = np.flatnonzero(merchants == merchant)
        assert row.tolist() == (values[at[0]] if len(at) else NEUTRAL).tolist()


def test_a_snapshot_comes_back_from_its_bytes_and_no_other_bytes_do() -> None:
    snapshot = snapshot_saying(KNOWN, MIDNIGHT)
    raw = snapshot.to_bytes()
    again = Snapshot.from_bytes(raw, snapshot.id)
    assert (again.id, again.effective_at) == (snapshot.id, MIDNIGHT)
    assert again.values.tobytes() == snapshot.values.tobytes()
    spoilt = bytearray(raw)
    spoilt[-1] ^= 1
    for bad in (bytes(spoilt), raw[:-1], raw[:-24], b"", b"\0" * 8):
        with pytest.raises(ValueError, match="bytes are"):
            Snapshot.from_bytes(bad, snapshot.id)


def test_the_id_tells_content_and_day_apart() -> None:
    known = snapshot_saying(KNOWN, MIDNIGHT)
    other = snapshot_saying({**KNOWN, "merchant 1": (12.0, 641.0, 0.0, 0.0)}, MIDNIGHT)
    assert len({known.id, other.id, snapshot_saying(KNOWN, MIDNIGHT + DAY).id}) == 3
    assert known.id == snapshot_saying(KNOWN, MIDNIGHT).id


def test_a_batch_waits_for_a_snapshot_that_cannot_be_read() -> None:
    """The driver holds a batch for a DependencyDown and for nothing else."""
    raised = SnapshotUnreadable("127.0.0.1:6379", "ms_1", "there is nothing under its key")
    error = pickle.loads(pickle.dumps(raised))  # as it comes from the task
    assert isinstance(error, DependencyDown)
    assert "ms_1 cannot be read: there is nothing under its key" in str(error)
