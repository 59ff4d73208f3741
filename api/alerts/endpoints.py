"""`GET /stream`."""

from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import StreamingResponse

from api.alerts.service import AlertService
from api.filters import once
from api.gate import Gate
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.streamed import Streamed, while_good

EVENTS = "text/event-stream"


def router(service: AlertService) -> Router:
    routes = Router(tags=["transactions"], dependencies=[Depends(once)])

    @routes.get(
        "/stream",
        summary="Flagged payments as they come",
        response_class=StreamingResponse,
        responses={200: {"content": {EVENTS: {}}}, **problems(400, 422, 503)},
    )
    @needs(Scope.READ)
    async def stream_alerts(
        request: Request, last_event_id: Annotated[str | None, Header()] = None
    ) -> StreamingResponse:
        """Server-sent events, `event: alert` with a decision as JSON. With `Last-Event-ID` it goes on behind that one,
        as browsers ask by themselves; `event: gap` says how many of those the topic no longer keeps.

        An alert may come twice; its `decision_id` and `revision` tell. Within a minute after its key was revoked or
        expired the stream ends.
        """
        pieces, held = await service.follow(last_event_id)
        gate: Gate = request.app.state.gate
        pieces = while_good(pieces, lambda: gate.still_good(request.scope))
        return Streamed(pieces, held, headers={"Cache-Control": "no-store"}, media_type=EVENTS)

    return routes
