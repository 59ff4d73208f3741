"""`POST /transactions`."""

from typing import Annotated

import anyio.to_thread
from fastapi import Depends, Header, Request

from api.body import JSON, whole_body
from api.filters import Identifier, once
from api.ingest.schemas import LINES, Accepted, request_body
from api.ingest.service import IngestService
from api.problems import problems
from api.routes import Actor, Router, needs
from api.scopes import Scope
from feature_repo.transaction import MAX_PAYLOAD_BYTES

MAX_BATCH_BYTES = 1 << 20


def router(service: IngestService) -> Router:
    routes = Router(tags=["transactions"], dependencies=[Depends(once)])

    @routes.post(
        "/transactions",
        status_code=202,
        summary="Payments to be decided",
        responses=problems(400, 409, 413, 415, 422, 503),
        openapi_extra={"requestBody": request_body()},
    )
    @needs(Scope.INGEST)
    async def post_transactions(
        request: Request, actor: Actor, idempotency_key: Annotated[Identifier | None, Header()] = None
    ) -> Accepted:
        """One payment as `application/json`, or up to 1,000 and 1 MiB as `application/x-ndjson`, all or none, put on
        the topic for the stream to decide. With an `Idempotency-Key` the same request, sent again within a day, hears
        the same answer and nothing is produced twice.
        """
        kind, body = await whole_body(request, {JSON: MAX_PAYLOAD_BYTES, LINES: MAX_BATCH_BYTES})
        key = None if idempotency_key is None else f"{actor} {idempotency_key}"  # each caller's own
        return await anyio.to_thread.run_sync(service.take, body, kind == LINES, key)

    return routes
