"""Search and its exports over two stores in memory: which one was asked is said, and a file is of one of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api.cursor import Cursors
from api.search import service as searching
from api.search.endpoints import router
from api.search.repository import Found
from api.search.schemas import SearchFilters, SearchQuery
from api.search.service import SearchService
from api.transactions.render import Rendered
from api.transactions.schemas import EXAMPLE, ListFilters
from feature_repo.errors import StoreUnavailable
from feature_repo.transaction import rfc3339

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
WEEK = timedelta(days=7)


class Index:
    """Elasticsearch with two pages of one payment; away after so many questions."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def page(self, wanted: Any, asked: SearchQuery, after: Any, similar: bool) -> Found:
        if not self.answers:
            raise StoreUnavailable("Elasticsearch", "here", "away")
        self.answers -= 1
        hits = [{"_source": EXAMPLE, "sort": [rfc3339(NOW), 0, 5]}, {"_source": EXAMPLE, "sort": [rfc3339(NOW), 0, 4]}]
        return Found(hits if after is None else hits[1:], {})


class Table:
    """PostgreSQL with two pages of one payment. Each question brings Elasticsearch back, and takes an hour."""

    def __init__(self, index: Index, clock: list[datetime]) -> None:
        self.asked: list[ListFilters] = []
        self._index = index
        self._clock = clock

    async def page(self, filters: ListFilters, after: Any, *_: Any) -> Rendered:
        self.asked.append(filters)
        self._index.answers = 100
        self._clock[0] += timedelta(hours=1)
        return Rendered(json.dumps(EXAMPLE).encode(), 1, after is None, 5 << 4 | 1, NOW)


class Stores:
    def __init__(self, answers: int) -> None:
        clock = [NOW]
        index = Index(answers)
        self.table = Table(index, clock)
        self.search = SearchService(index, self.table, Cursors(b"k" * 32), lambda: clock[0])  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def pages_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MAX_LIMIT", 1)


@pytest.mark.parametrize(
    ("asked", "since"),
    [
        ({}, NOW - WEEK),
        ({"to": rfc3339(NOW + WEEK)}, NOW - WEEK),
        ({"to": rfc3339(NOW - WEEK - timedelta(days=1))}, NOW - WEEK - timedelta(days=1) - WEEK),
        ({"end_time": "2020-01-08"}, datetime(2020, 1, 1, tzinfo=UTC)),
        ({"to": "0001-01-02"}, datetime.min.replace(tzinfo=UTC)),
        ({"from": "2020-01-01", "to": "2020-02-01"}, datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_the_table_is_looked_at_for_the_last_week_of_what_is_asked(asked: dict[str, str], since: datetime) -> None:
    stores = Stores(answers=0)
    page = asyncio.run(stores.search.page(SearchQuery.model_validate({"q": "coffee", **asked})))
    assert (page.source, page.searched_since) == ("postgresql", since)
    assert [filters.since for filters in stores.table.asked] == [since]


async def lines(pieces: AsyncIterator[bytes]) -> list[bytes]:
    return [line async for piece in pieces for line in piece.splitlines()]


def test_an_export_that_began_in_the_table_goes_on_in_the_table_from_the_same_moment_on() -> None:
    stores = Stores(answers=0)

    async def export() -> int:
        first, pieces = await stores.search.export(SearchFilters.model_validate({"q": "coffee"}), "ndjson")
        assert (first.source, first.searched_since) == ("postgresql", NOW - WEEK)
        return len(await lines(pieces))

    assert asyncio.run(export()) == 2
    assert [filters.since for filters in stores.table.asked] == [NOW - WEEK] * 2


def test_an_export_that_loses_elasticsearch_breaks_off() -> None:
    stores = Stores(answers=1)

    async def export() -> None:
        first, pieces = await stores.search.export(SearchFilters.model_validate({"q": "coffee"}), "ndjson")
        assert (first.source, first.searched_since) == ("elasticsearch", None)
        assert len((await anext(pieces)).splitlines()) == 1
        with pytest.raises(StoreUnavailable):
            await anext(pieces)

    asyncio.run(export())
    assert stores.table.asked == []


@pytest.mark.parametrize(
    ("answers", "source", "since"),
    [(100, "elasticsearch", None), (0, "postgresql", rfc3339(NOW - WEEK))],
)
@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_the_headers_of_an_export_say_where_it_comes_from(
    answers: int, source: str, since: str | None, form: str
) -> None:
    (route,) = [route for route in router(Stores(answers).search).routes if "{form}" in route.path]  # type: ignore[attr-defined]

    async def headers() -> Any:
        query = SearchFilters.model_validate({"q": "coffee"})
        return (await route.endpoint(form=form, query=query)).headers  # type: ignore[attr-defined]

    found: httpx.Headers = asyncio.run(headers())
    assert (found["X-Vigil-Search"], found.get("X-Vigil-Searched-Since")) == (source, since)
    assert found["Content-Disposition"] == f'attachment; filename="search.{form}"'
