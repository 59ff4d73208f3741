"""`GET /search`, and its exports."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query, Response
from fastapi.responses import StreamingResponse

from api.filters import once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.search.schemas import SearchFilters, SearchPage, SearchQuery
from api.search.service import SearchService
from api.transactions.endpoints import MEDIA_TYPES
from feature_repo.transaction import rfc3339

SOURCE = "X-Vigil-Search"  # which store was asked
SINCE = "X-Vigil-Searched-Since"  # of PostgreSQL: nothing older was looked at

FILE = {
    "content": {name: {} for name in MEDIA_TYPES.values()},
    "headers": {
        SOURCE: {"description": "elasticsearch or postgresql", "schema": {"type": "string"}},
        SINCE: {
            "description": "of postgresql: nothing older was looked at",
            "schema": {"type": "string", "format": "date-time"},
        },
    },
}


def router(service: SearchService) -> Router:
    routes = Router(tags=["transactions"], dependencies=[Depends(once)])

    @routes.get("/search", summary="Decisions by text", responses=problems(400, 422, 503))
    @needs(Scope.SEARCH)
    async def search(query: Annotated[SearchQuery, Query()], response: Response) -> SearchPage:
        """Decisions whose merchant, location or payment method match, newest first, with the list's filters.

        A payment is found some seconds after it was decided. Repeated payments are left out unless
        `outcome=duplicate` asks for them. While Elasticsearch is away, PostgreSQL is asked: `source` and the header
        `X-Vigil-Search` say so.
        """
        page = await service.page(query)
        response.headers[SOURCE] = page.source
        return page

    @routes.get(
        "/search.{form}",
        summary="Decisions by text, as a file",
        response_class=StreamingResponse,
        responses={200: FILE, **problems(422, 503)},
    )
    @needs(Scope.SEARCH)
    async def export_search(
        form: Annotated[Literal["csv", "ndjson"], Path()], query: Annotated[SearchFilters, Query()]
    ) -> StreamingResponse:
        """All that search finds, as `GET /transactions.{form}` has what the list holds, from one store.

        `X-Vigil-Search` says which: PostgreSQL where Elasticsearch does not answer at the beginning, and
        `X-Vigil-Searched-Since` then tells from when on it was looked at, seven days unless `from` is given. Should
        the store go away in the middle, the file is cut off: it ends without the last chunk of its encoding, which
        clients report.
        """
        first, pieces = await service.export(query, form)
        headers = {"Content-Disposition": f'attachment; filename="search.{form}"', SOURCE: first.source}
        if first.searched_since is not None:
            headers[SINCE] = rfc3339(first.searched_since)
        return StreamingResponse(pieces, headers=headers, media_type=MEDIA_TYPES[form])

    return routes
