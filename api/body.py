"""Bodies that are read as they came: whoever parses them holds them to their contract."""

from fastapi import Request

from feature_repo.errors import MediaTypeUnsupported
from feature_repo.transaction import MAX_PAYLOAD_BYTES

JSON = "application/json"


async def json_only(request: Request) -> None:
    """A dependency: the page of another site can send no such request unasked. Raises MediaTypeUnsupported."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != JSON:
        raise MediaTypeUnsupported(JSON)


async def json_body(request: Request) -> bytes:
    """The body up to one byte over the limit, which is enough for TOO_LARGE. Raises MediaTypeUnsupported."""
    await json_only(request)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        pieces.append(piece[: MAX_PAYLOAD_BYTES + 1 - size])
        size += len(pieces[-1])
        if size > MAX_PAYLOAD_BYTES:
            break
    return b"".join(pieces)
