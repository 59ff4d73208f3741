from hypothesis import given
from hypothesis import strategies as st

from streaming.culprits import culprits


@given(st.integers(0, 300), st.sets(st.integers(0, 299)))
def test_finds_exactly_what_is_refused(count: int, bad: set[int]) -> None:
    expected = sorted(position for position in bad if position < count)
    assert culprits(count, lambda rows: any(rows.start <= at < rows.stop for at in bad), count) == expected


def test_one_among_many_costs_few_questions_and_a_flood_is_not_counted_out() -> None:
    asked: list[slice] = []

    def refuses(rows: slice) -> bool:
        asked.append(rows)
        return rows.start <= 30_000 < rows.stop

    assert culprits(65_536, refuses, 10) == [30_000]
    assert len(asked) <= 2 * 16 + 1
    assert len(culprits(65_536, lambda _: True, 10)) == 10
