"""Bodies that are read as they came: whoever parses them holds them to their contract."""

from collections.abc import Mapping

from fastapi import Request

from feature_repo.codes import Code
from feature_repo.errors import BadRecord, MediaTypeUnsupported
from feature_repo.transaction import MAX_PAYLOAD_BYTES

JSON = "application/json"


def content_type(request: Request, accepted: Mapping[str, int]) -> str:
    """Raises MediaTypeUnsupported for another one than those accepted."""
    offered = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if offered not in accepted:
        raise MediaTypeUnsupported(" or ".join(accepted))
    return offered


async def json_only(request: Request) -> None:
    """A dependency: the page of another site can send no such request unasked. Raises MediaTypeUnsupported."""
    content_type(request, {JSON: 0})


async def whole_body(request: Request, accepted: Mapping[str, int]) -> tuple[str, bytes]:
    """Content type and body, whose size is limited by the type. Raises MediaTypeUnsupported, BadRecord (TOO_LARGE)."""
    kind = content_type(request, accepted)
    pieces: list[bytes] = []
    left = accepted[kind]
    async for piece in request.stream():
        left -= len(piece)
        if left < 0:
            sentence = Code.TOO_LARGE.sentence if accepted[kind] == MAX_PAYLOAD_BYTES else "the body is too large"
            raise BadRecord(Code.TOO_LARGE.value, sentence, status=Code.TOO_LARGE.status)
        pieces.append(piece)
    return kind, b"".join(pieces)


async def json_body(request: Request) -> bytes:
    """A JSON body. Raises MediaTypeUnsupported, BadRecord (TOO_LARGE)."""
    _, body = await whole_body(request, {JSON: MAX_PAYLOAD_BYTES})
    return body
