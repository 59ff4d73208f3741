"""`GET /models`, `/models/{version}`, `/models/trial` and `/models/requests/{id}`, and what may be asked for:
`POST /models/{version}/promote` and `/challenge`, `POST /models/rollback` and `/end-challenge`.
"""

from typing import Annotated

from fastapi import Body, Depends, Path, Query

from api.body import json_only
from api.filters import Identifier, once
from api.models.schemas import (
    Accepted,
    Models,
    PromotionBody,
    RequestDetail,
    RollbackBody,
    Trial,
    TrialRange,
    VersionDetail,
)
from api.models.service import ModelsService
from api.problems import problems
from api.routes import Actor, Router, needs
from api.scopes import Scope

MAX_ID = 2**63 - 1  # PostgreSQL's bigint


def router(service: ModelsService) -> Router:
    routes = Router(prefix="/models", tags=["models"], dependencies=[Depends(once)])

    @routes.get("", summary="Versions, aliases, gate results", responses=problems(503))
    @needs(Scope.READ)
    def list_models() -> Models:
        """Every registered version, newest first, with what the gate last said of it."""
        return service.models()

    @routes.get("/requests/{request_id}", summary="What became of a request", responses=problems(404, 422, 503))
    @needs(Scope.READ)
    def get_request(request_id: Annotated[int, Path(ge=1, le=MAX_ID, examples=[7])]) -> RequestDetail:
        """A request with the gate's report once it is finished."""
        return service.request(request_id)

    @routes.get("/trial", summary="The version on trial beside the champion", responses=problems(404, 409, 422, 503))
    @needs(Scope.READ)
    def get_trial(query: Annotated[TrialRange, Query()]) -> Trial:
        """Of the payments both scored: how many each flags at its own threshold, and how many of them were frauds."""
        return service.trial(query.hours)

    @routes.get("/{version}", summary="One version", responses=problems(404, 422, 503))
    @needs(Scope.READ)
    def get_version(version: Annotated[Identifier, Path(examples=["3"])]) -> VersionDetail:
        """With the numbers of its training. An alias will do: `champion`."""
        return service.version(version)

    @routes.post(
        "/rollback",
        status_code=202,
        summary="Back to the previous champion",
        responses=problems(400, 409, 413, 415, 422, 503),
        dependencies=[Depends(json_only)],
    )
    @needs(Scope.PROMOTE)
    def rollback(actor: Actor, body: Annotated[RollbackBody | None, Body()] = None) -> Accepted:
        """Written down for the lifecycle worker: integrity is checked, the gate is not asked."""
        return service.rollback(body or RollbackBody(from_version=None), actor)

    @routes.post(
        "/{version}/promote",
        status_code=202,
        summary="Make a version champion",
        responses=problems(400, 404, 413, 415, 422, 503),
        dependencies=[Depends(json_only)],
    )
    @needs(Scope.PROMOTE)
    def promote(
        version: Annotated[Identifier, Path(examples=["3"])],
        actor: Actor,
        body: Annotated[PromotionBody | None, Body()] = None,
    ) -> Accepted:
        """Written down for the lifecycle worker, which asks the gate. The answer is at the URL given back."""
        return service.promote(version, body or PromotionBody(data=None, override=None), actor)

    @routes.post(
        "/end-challenge",
        status_code=202,
        summary="No version on trial",
        responses=problems(415, 503),
        dependencies=[Depends(json_only)],
    )
    @needs(Scope.PROMOTE)
    def end_challenge(actor: Actor) -> Accepted:
        """Written down for the lifecycle worker; the scores so far stay with the payments that have one."""
        return service.end_challenge(actor)

    @routes.post(
        "/{version}/challenge",
        status_code=202,
        summary="Put a version on trial",
        responses=problems(404, 415, 422, 503),
        dependencies=[Depends(json_only)],
    )
    @needs(Scope.PROMOTE)
    def challenge(version: Annotated[Identifier, Path(examples=["3"])], actor: Actor) -> Accepted:
        """Written down for the lifecycle worker: the version then scores live payments beside the champion and decides
        nothing. Integrity is checked, the gate is not asked."""
        return service.challenge(version, actor)

    return routes
