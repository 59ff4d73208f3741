"""Answers that are sent while they are made."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Streamed(StreamingResponse):
    """Closes what it holds when it is over: sent, broken off, or never begun because nobody waits for it any more."""

    def __init__(self, pieces: AsyncIterator[bytes], held: AsyncExitStack, **options: Any) -> None:
        super().__init__(pieces, **options)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)
