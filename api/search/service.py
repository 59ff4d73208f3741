"""Finds decisions by the text of their payment."""

from typing import Any

from api.cursor import Cursors
from api.search.repository import SearchRepository
from api.search.schemas import SearchPage, SearchQuery
from api.search.syntax import parse
from api.transactions.schemas import Decision

PATH = "/search"


class SearchService:
    def __init__(self, repository: SearchRepository, cursors: Cursors) -> None:
        self._repository = repository
        self._cursors = cursors

    def page(self, query: SearchQuery) -> SearchPage:
        """Raises QuerySyntax, CursorInvalid, StoreUnavailable."""
        wanted = parse(query.q)
        identity = query.identity(PATH)
        after = None if query.cursor is None else self._cursors.read(query.cursor, identity)
        hits = self._repository.page(wanted, query, after)
        shown, more = hits[: query.limit], len(hits) > query.limit
        return SearchPage(
            items=[Decision(**presented(hit["source"])) for hit in shown],
            next_cursor=self._cursors.make(shown[-1]["sort"], identity) if more else None,
        )


def presented(document: dict[str, Any]) -> dict[str, Any]:
    """A document of the index in the words of the schema."""
    reasons = document.get("anomaly_reasons") or []
    return {
        **document,
        "anomaly_reason": reasons[0] if reasons else None,
        "anomaly_reasons": reasons,
    }
