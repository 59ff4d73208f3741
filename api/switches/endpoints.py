"""`GET /switches` and `PUT /switches/{name}`."""

from fastapi import Depends

from api.body import json_only
from api.filters import once
from api.problems import problems
from api.routes import Actor, Router, needs
from api.scopes import Scope
from api.switches.schemas import Name, Standing, SwitchBody, Switches
from api.switches.service import SwitchService


def router(service: SwitchService) -> Router:
    routes = Router(prefix="/switches", tags=["operation"], dependencies=[Depends(once)])

    @routes.get("", summary="How the switches of the stream stand", responses=problems(503))
    @needs(Scope.READ)
    def get_switches() -> Switches:
        """And who threw them when, from what to what, and why."""
        return service.all()

    @routes.put(
        "/{name}",
        summary="Throw a switch",
        responses=problems(400, 413, 415, 422, 503),
        dependencies=[Depends(json_only)],
    )
    @needs(Scope.ADMIN)
    def put_switch(name: Name, body: SwitchBody, actor: Actor) -> Standing:
        """The stream looks before each batch: `paused`, payments wait in Kafka; `rules-only`, they go to review without
        a score, which `vigil backfill` gives them later. Setting what stands already changes nothing."""
        return service.throw(name, body, actor)

    return routes
