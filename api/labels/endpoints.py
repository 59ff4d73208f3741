"""`POST /labels` and `GET /labels`."""

from typing import Annotated

import anyio.to_thread
from fastapi import Depends, Query, Request

from api.body import json_body
from api.filters import once
from api.labels.schemas import LabelFilters, Labels, Taken, request_body
from api.labels.service import LabelService
from api.problems import problems
from api.routes import Actor, Router, needs
from api.scopes import Scope


def router(service: LabelService) -> Router:
    routes = Router(tags=["labels"], dependencies=[Depends(once)])

    @routes.post(
        "/labels",
        status_code=202,
        summary="What was learnt of a payment",
        responses=problems(400, 413, 415, 422, 503),
        openapi_extra={"requestBody": request_body()},
    )
    @needs(Scope.LABELS)
    async def post_label(request: Request, actor: Actor) -> Taken:
        """Fraud or genuine, when that was learnt (`label_time`) and who says so (`source`). Stored at once and put on
        topic `labels`, whose rules it keeps; a later label of the same payment takes its place."""
        return await anyio.to_thread.run_sync(service.take, await json_body(request), actor)

    @routes.get("/labels", summary="What is known of a payment", responses=problems(422, 503))
    @needs(Scope.READ)
    def list_labels(query: Annotated[LabelFilters, Query()]) -> Labels:
        """Its labels, newest first, a hundred at most; empty where nobody said anything of it."""
        return service.of(query.transaction_id)

    return routes
