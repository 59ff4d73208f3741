"""Answers that are sent while they are made."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


async def while_good(pieces: AsyncIterator[bytes], still_good: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """The pieces, up to the first one that comes when whoever reads them may no more."""
    async for piece in pieces:
        if not await still_good():
            return
        yield piece


class Streamed(StreamingResponse):
    """Closes what it holds when it is over: sent, broken off, or never begun because nobody waits for it any more."""

    def __init__(self, pieces: AsyncIterator[bytes], held: AsyncExitStack, **options: Any) -> None:
        super().__init__(pieces, **options)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)
