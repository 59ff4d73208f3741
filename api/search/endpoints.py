"""`GET /search`."""

from typing import Annotated

from fastapi import Depends, Query

from api.filters import once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.search.schemas import SearchPage, SearchQuery
from api.search.service import SearchService


def router(service: SearchService) -> Router:
    routes = Router(tags=["transactions"], dependencies=[Depends(once)])

    @routes.get("/search", summary="Decisions by text", responses=problems(400, 422, 503))
    @needs(Scope.SEARCH)
    def search(query: Annotated[SearchQuery, Query()]) -> SearchPage:
        """Decisions whose merchant, location or payment method match, newest first, with the list's filters.

        A payment is found some seconds after it was decided. Repeated payments are left out unless
        `outcome=duplicate` asks for them.
        """
        return service.page(query)

    return routes
