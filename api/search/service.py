"""Finds decisions by the text of their payment: in Elasticsearch, or in PostgreSQL while that is away."""

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any, Literal

import anyio.to_thread

from api.cursor import Cursors
from api.filters import BEGINNING, END, MAX_LIMIT
from api.search.repository import Found, SearchRepository
from api.search.schemas import SearchFilters, SearchPage, SearchQuery
from api.search.syntax import FIELDS, Term, parse, phrase
from api.transactions import sheet
from api.transactions.repository import Matching, Position, TransactionRepository
from api.transactions.schemas import Decision, ListFilters
from feature_repo.errors import StoreUnavailable
from feature_repo.transaction import rfc3339

log = logging.getLogger("vigil.api")

PATH = "/search"
LOOKED_BACK = timedelta(days=7)  # in the table, which has no index of words
MILLISECOND = timedelta(milliseconds=1)
EXACT, SIMILAR, TABLE = "exact", "similar", "table"  # how a page was found, as its cursor says

Place = list[Any]  # event time, Kafka partition and offset of the last row, the same from both stores


class SearchService:
    def __init__(
        self,
        documents: SearchRepository,
        table: TransactionRepository,
        cursors: Cursors,
        now: Callable[[], datetime],
    ) -> None:
        self._documents = documents
        self._table = table
        self._cursors = cursors
        self._now = now

    async def page(self, query: SearchQuery) -> SearchPage:
        """Raises QuerySyntax, CursorInvalid, StoreUnavailable (of PostgreSQL)."""
        wanted = asked_for(query)
        matched, after = None, None
        if query.cursor is not None:
            matched, *after = self._cursors.read(query.cursor, query.identity(PATH))
        try:
            return await anyio.to_thread.run_sync(self._indexed, wanted, query, matched, after)
        except StoreUnavailable as error:
            log.warning("search falls back to PostgreSQL: %s", error)
            return await self._listed(wanted, query, after, self._since(query), exact=matched == TABLE)

    async def export(
        self, asked: SearchFilters, form: Literal["csv", "ndjson"]
    ) -> tuple[SearchPage, AsyncIterator[bytes]]:
        """The first page, and all that the pages hold, piece by piece, of the store that had the first one.

        Raises as `page`, at once where it cannot begin; later StoreUnavailable, also of Elasticsearch: a file that
        went on in the other store would lack or repeat payments, and its headers are sent.
        """
        query = SearchQuery.model_validate(
            {**asked.model_dump(mode="json", exclude_none=True, by_alias=True), "limit": MAX_LIMIT}
        )
        first = await self.page(query)

        async def pieces(page: SearchPage) -> AsyncIterator[bytes]:
            if form == "csv":
                yield sheet.HEAD
            while True:
                lines = "".join(f"{item.model_dump_json()}\n" for item in page.items).encode()
                yield sheet.rows(lines) if form == "csv" else lines
                if page.next_cursor is None:
                    return
                page = await self._next(query.model_copy(update={"cursor": page.next_cursor}), first.searched_since)

        return first, pieces(first)

    async def _next(self, query: SearchQuery, since: datetime | None) -> SearchPage:
        """A later page of an export: of the table where it is read from `since` on, else of the index."""
        assert query.cursor is not None
        matched, *after = self._cursors.read(query.cursor, query.identity(PATH))
        if since is not None:
            return await self._listed(asked_for(query), query, after, since, exact=True)
        return await anyio.to_thread.run_sync(self._indexed, asked_for(query), query, matched, after)

    def _since(self, query: SearchQuery) -> datetime:
        """From where on the table is looked at."""
        if query.since is not None:
            return query.since
        until = min(self._now(), query.until or END)
        return max(until, BEGINNING + LOOKED_BACK) - LOOKED_BACK

    def _indexed(
        self, wanted: list[list[Term]], query: SearchQuery, matched: str | None, after: Place | None
    ) -> SearchPage:
        """The payments with these words, or, where there are none at all, with words like these."""
        found = self._documents.page(wanted, query, after, similar=matched == SIMILAR)
        if matched is None and not found.hits:
            similar = self._documents.page(wanted, query, None, similar=True)
            found, matched = (similar, SIMILAR) if similar.hits else (found, EXACT)
        return self._of_documents(found, query, SIMILAR if matched == SIMILAR else EXACT)

    def _of_documents(self, found: Found, query: SearchQuery, matched: str) -> SearchPage:
        shown, more = found.hits[: query.limit], len(found.hits) > query.limit
        cursor = self._cursors.make([matched, *shown[-1]["sort"]], query.identity(PATH)) if more else None
        return SearchPage.model_validate(
            {
                "items": [Decision(**presented(hit["_source"])) for hit in shown],
                "next_cursor": cursor,
                "highlights": [{field: parts[0] for field, parts in hit.get("highlight", {}).items()} for hit in shown],
                "facets": found.facets if query.facets else None,
                "matched": matched,
                "source": "elasticsearch",
                "searched_since": None,
            }
        )

    async def _listed(
        self, wanted: list[list[Term]], query: SearchQuery, after: Place | None, since: datetime, exact: bool
    ) -> SearchPage:
        """The same question to the table. Where a page of the index came before, payments of its last millisecond may
        be shown again: the index keeps times to the millisecond."""
        asked = query.model_dump(
            mode="json", exclude={"q", "facets", "from_", "start_time", *FIELDS}, exclude_none=True
        )
        filters = ListFilters.model_validate({**asked, "from": rfc3339(since)})
        place = None
        if after is not None:
            time, partition, offset = after
            slack = timedelta(0) if exact else MILLISECOND
            place = Position(datetime.fromisoformat(time) + slack, (partition << 48) + (offset << 4))
        page = await self._table.page(filters, place, self._now(), words(wanted))
        items = json.loads(b"[%s]" % page.content)
        last = [rfc3339(page.event_time), page.id >> 48, page.id >> 4 & ((1 << 44) - 1)]
        return SearchPage.model_validate(
            {
                "items": items,
                "next_cursor": self._cursors.make([TABLE, *last], query.identity(PATH)) if page.more else None,
                "highlights": [{} for _ in items],
                "facets": None,
                "matched": EXACT,
                "source": "postgresql",
                "searched_since": since,
            }
        )


def asked_for(asked: SearchFilters) -> list[list[Term]]:
    """Alternatives of terms: the text's, narrowed by what its fields are to hold. Raises QuerySyntax."""
    held = [phrase(text, (name,)) for name in FIELDS if (text := getattr(asked, name)) is not None]
    return [[*terms, *held] for terms in parse(asked.q)]


def words(alternatives: list[list[Term]]) -> list[list[Matching]]:
    """The question as patterns: whole words, one behind the other in a phrase, a beginning for a prefix."""
    return [[Matching(term.fields, _pattern(term)) for term in terms] for terms in alternatives]


def _pattern(term: Term) -> str:
    parts = [re.escape(part) for part in re.findall(r"\w+", term.text)]
    end = "" if term.kind == "prefix" else r"\M"
    return r"\m" + r"\W+".join(parts) + end


def presented(document: dict[str, Any]) -> dict[str, Any]:
    """A document of the index in the words of the schema."""
    reasons = document.get("anomaly_reasons") or []
    return {
        **document,
        "anomaly_reason": reasons[0] if reasons else None,
        "anomaly_reasons": reasons,
    }
