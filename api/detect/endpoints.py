"""`POST /detect`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.detect.schemas import Detection, request_body
from api.detect.service import DetectService
from api.problems import problems
from feature_repo.errors import MediaTypeUnsupported
from feature_repo.transaction import MAX_PAYLOAD_BYTES

JSON = "application/json"


class DetectQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    record: bool = Field(False, description="also put the payment on the topic, for the stream to decide")


def router(service: DetectService) -> APIRouter:
    routes = APIRouter(tags=["detection"])

    @routes.post(
        "/detect",
        summary="Decide one payment now",
        response_model=Detection,
        responses=problems(400, 409, 413, 415, 422, 503),
        openapi_extra={"requestBody": request_body()},
    )
    async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
        """Scores the payment against its user's state of now. Writes nothing, unless `record` is set."""
        content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type != JSON:
            raise MediaTypeUnsupported(JSON)
        answer = await service.detect(await _body(request), query.record, request.scope["vigil.request_id"])
        return Response(answer.body, answer.status, media_type=answer.content_type)

    return routes


async def _body(request: Request) -> bytes:
    """The body up to one byte over the limit: the model service then answers TOO_LARGE."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        pieces.append(piece[: MAX_PAYLOAD_BYTES + 1 - size])
        size += len(pieces[-1])
        if size > MAX_PAYLOAD_BYTES:
            break
    return b"".join(pieces)
