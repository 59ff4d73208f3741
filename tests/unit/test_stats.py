"""The time that counts are of."""

from datetime import UTC, datetime, timedelta

import pytest

from api.stats.schemas import StatsRange

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST, LAST = (time.replace(tzinfo=UTC) for time in (datetime.min, datetime.max))


@pytest.mark.parametrize(
    ("asked", "since", "until"),
    [
        ({}, NOW - DAY, NOW),
        ({"to": "2026-01-02"}, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        ({"from": "2026-01-02"}, datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)),
        ({"to": "0001-01-01"}, FIRST, FIRST),
        ({"to": "0001-01-01T12:00:00Z"}, FIRST, FIRST + DAY / 2),
        ({"end_time": "0001-01-02"}, FIRST, FIRST + DAY),
        ({"from": "9999-12-31T12:00:00Z"}, datetime(9999, 12, 31, 12, tzinfo=UTC), LAST),
    ],
)
def test_counts_are_of_a_day_or_what_there_is_of_it(asked: dict[str, str], since: datetime, until: datetime) -> None:
    assert StatsRange.model_validate(asked).bounds(NOW) == (since, until)
