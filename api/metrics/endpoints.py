"""`GET /metrics/windows`."""

from typing import Annotated

from fastapi import Depends, Query

from api.filters import once
from api.metrics.schemas import WindowFilters, Windows
from api.metrics.service import WindowService
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope


def router(service: WindowService) -> Router:
    routes = Router(tags=["metrics"], dependencies=[Depends(once)])

    @routes.get("/metrics/windows", summary="Payments over time, newest first", responses=problems(400, 422, 503))
    @needs(Scope.READ)
    def list_windows(query: Annotated[WindowFilters, Query()]) -> Windows:
        """Minutes of a merchant or a payment method as they are counted, or bursts of a user's payments once over.

        A payment is counted at its event time, or when it came where that is earlier. One that comes over five seconds
        behind the newest is not counted, `late_payments` says how many there were.
        """
        return service.page(query)

    return routes
