"""`POST /detect`."""

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.body import json_body
from api.detect.schemas import Detection, request_body
from api.detect.service import DetectService
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope


class DetectQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    record: bool = Field(False, description="also put the payment on the topic, for the stream to decide")


def router(service: DetectService) -> Router:
    routes = Router(tags=["detection"])

    @routes.post(
        "/detect",
        summary="Decide one payment now",
        response_model=Detection,
        responses=problems(400, 409, 413, 415, 422, 503),
        openapi_extra={"requestBody": request_body()},
    )
    @needs(Scope.INGEST)
    async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
        """Scores the payment against its user's state of now. Writes nothing, unless `record` is set."""
        payload = await json_body(request)
        answer = await service.detect(payload, query.record, request.scope["vigil.request_id"])
        return Response(answer.body, answer.status, media_type=answer.content_type)

    return routes
