"""`GET /stats` and `GET /stats/live`."""

from typing import Annotated

from fastapi import Depends, Query

from api.filters import once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.stats.schemas import LiveStats, Stats, StatsRange
from api.stats.service import StatsService


def router(service: StatsService) -> Router:
    routes = Router(tags=["metrics"], dependencies=[Depends(once)])

    @routes.get("/stats", summary="Decisions counted", responses=problems(422, 503))
    @needs(Scope.READ)
    def get_stats(query: Annotated[StatsRange, Query()]) -> Stats:
        """By outcome, decision, model version, reason and hour; of the last 24 hours unless a range is given."""
        return service.stats(query)

    @routes.get("/stats/live", summary="What the stream does now", responses=problems(422, 503))
    @needs(Scope.READ)
    def get_live() -> LiveStats:
        """Throughput, what waits, how old payments are when they are decided, and what was decided lately;
        looked at every two seconds at most."""
        return service.live()

    return routes
