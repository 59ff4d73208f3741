"""What the list asks PostgreSQL for, without PostgreSQL."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.transactions.repository import LATELY, TransactionRepository
from api.transactions.schemas import ListFilters

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


class EmptyTable:
    """Has no row, and notes from when on each statement looks by event time; None where it does not say."""

    def __init__(self) -> None:
        self.since: list[datetime | None] = []

    async def value(self, statement: str, parameters: list[Any]) -> None:
        found = re.search(r"d\.event_time >= \$(\d+)", statement)
        self.since.append(parameters[int(found[1]) - 1] if found else None)


def looked_from(**asked: str) -> list[datetime | None]:
    table = EmptyTable()
    repository = TransactionRepository(None, table)  # type: ignore[arg-type]  # the one method that a page asks
    asyncio.run(repository.page(ListFilters.model_validate(asked), None, NOW))
    return table.since


def test_the_newest_of_everybody_are_looked_for_by_their_own_time() -> None:
    """By arrival alone, payments that came late would fill a page, and the ones between them would be skipped."""
    assert looked_from() == [*(NOW - span for span in LATELY), None, None]


@pytest.mark.parametrize("name", ["from", "start_time"])
def test_a_bound_that_is_given_is_only_ever_raised(name: str) -> None:
    since = NOW - timedelta(hours=1)
    short = [NOW - span for span in LATELY if span < timedelta(hours=1)]
    assert looked_from(**{name: since.isoformat()}) == [*short, since]


def test_no_moment_is_looked_at_that_the_upper_bound_leaves_out() -> None:
    assert looked_from(to=(NOW - timedelta(hours=1)).isoformat()) == [NOW - LATELY[-1], None, None]
