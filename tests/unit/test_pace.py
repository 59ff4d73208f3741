"""The bound of batches follows what they cost."""

from collections.abc import Callable

import pytest

from streaming.pace import ENOUGH, FIRST, SETTLE_S, WARMING, Pace

MOST = 1_000_000


def run(
    pace: Pace, takes: Callable[[int], float], waiting: Callable[[int], int], batches: int, now: float = 1_000.0
) -> list[int]:
    """Take batches of what waits, up to the bound; the bounds they were taken under."""
    caps = []
    for number in range(batches):
        records = min(pace.cap, waiting(number))
        seconds = takes(records)
        pace.batch(records, seconds)
        now += max(seconds, SETTLE_S / 5)
        caps.append(pace.cap)
        pace.changed(now)
    return caps


@pytest.mark.parametrize(("fixed", "each"), [(0.1, 5e-6), (0.3, 40e-6), (0.05, 100e-6)])
def test_full_batches_come_to_take_what_they_should(fixed: float, each: float) -> None:
    pace = Pace(1.0, MOST)
    run(pace, lambda n: fixed + each * n, lambda _: MOST, 120)
    assert fixed + each * pace.cap == pytest.approx(1.0, rel=0.4)


def test_batches_that_are_not_full_change_nothing() -> None:
    pace = Pace(1.0, MOST)
    assert set(run(pace, lambda n: 0.1 + 100e-6 * n, lambda _: 500, 50)) == {FIRST}


def test_after_slow_batches_the_bound_recovers() -> None:
    pace = Pace(1.0, MOST)
    run(pace, lambda n: 0.1 + 400e-6 * n, lambda _: MOST, 60)
    slow = pace.cap
    run(pace, lambda n: 0.1 + 10e-6 * n, lambda _: MOST, 120, now=10_000.0)
    assert slow < 4_000
    assert pace.cap > 50_000


def test_it_stays_within_its_limits() -> None:
    quick, slow = Pace(1.0, 60_000), Pace(1.0, MOST)
    run(quick, lambda n: 1e-6 * n, lambda _: MOST, 80)
    run(slow, lambda n: 5.0 + 1e-3 * n, lambda _: MOST, 80)
    assert quick.cap == FIRST  # six fifths of it are not worth a restart
    assert slow.cap == pytest.approx(5_000, rel=0.1)  # less would take hardly less time


def test_changes_lie_apart_and_the_first_batches_of_a_query_tell_nothing() -> None:
    pace = Pace(1.0, MOST)
    for number in range(1, WARMING + ENOUGH + 1):
        pace.batch(pace.cap, 10.0)
        assert pace.changed(100.0) == (number == WARMING + ENOUGH)
    for _ in range(WARMING + 60):
        pace.batch(pace.cap, 0.01)
    assert not pace.changed(100.0 + SETTLE_S / 2)
    assert pace.changed(100.0 + SETTLE_S)


@pytest.mark.parametrize("fixed", [0.6, 1.1, 3.0])
def test_where_the_fixed_cost_is_most_of_the_target_batches_stay_large_enough_to_catch_up(fixed: float) -> None:
    pace = Pace(1.0, MOST)
    run(pace, lambda n: fixed + 20e-6 * n, lambda _: MOST, 200)
    assert 20e-6 * pace.cap > fixed / 2
