"""`GET /search`."""

from typing import Annotated

from fastapi import Depends, Query, Response

from api.filters import once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.search.schemas import SearchPage, SearchQuery
from api.search.service import SearchService

SOURCE = "X-Vigil-Search"  # which store was asked


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

    return routes
