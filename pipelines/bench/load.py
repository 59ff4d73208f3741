"""A client that costs little: HTTP over a few kept connections, as many requests as they take or at a rate."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from feature_repo.errors import DependencyDown

Request = tuple[str, str, bytes]  # method, path with query, JSON body


@dataclass(frozen=True)
class Load:
    """Latency in milliseconds; at a rate, from when the request was due, so what waits for others counts."""

    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def closed(url: str, requests: Iterator[Request], connections: int, seconds: float) -> Load:
    """Each connection asks again as soon as it was answered. Raises DependencyDown for an answer that is not what
    was asked for: another status, or a search that fell back to PostgreSQL.
    """

    async def run() -> Load:
        took: list[float] = []
        began = time.perf_counter()

        async def worker(connection: "_Connection") -> None:
            while time.perf_counter() - began < seconds:
                asked = time.perf_counter()
                await connection.ask(next(requests))
                took.append(time.perf_counter() - asked)

        await _with(url, connections, worker)
        return _summed(took, time.perf_counter() - began)

    return asyncio.run(run())


def at_rate(url: str, requests: Iterator[Request], rate: float, connections: int, seconds: float) -> Load:
    """So many a second, spread evenly, whatever the answers take."""

    async def run() -> Load:
        took: list[float] = []
        due = iter(range(int(rate * seconds)))
        began = time.perf_counter()

        async def worker(connection: "_Connection") -> None:
            for number in due:
                at = began + number / rate
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                await connection.ask(next(requests))
                took.append(time.perf_counter() - at)

        await _with(url, connections, worker)
        return _summed(took, time.perf_counter() - began)

    return asyncio.run(run())


class _Connection:
    def __init__(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._reader = reader
        self.writer = writer

    async def ask(self, request: Request) -> bytes:
        method, path, body = request
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:-2])
        content = await self._reader.readexactly(int(fields[b"content-length"]))
        if not answer.startswith(b"HTTP/1.1 200") or b"x-vigil-search: postgresql" in answer.lower():
            raise DependencyDown("the query service", self._host, content.decode()[:300])
        return content


async def _with(url: str, connections: int, worker: Callable[["_Connection"], object]) -> None:
    parts = urlsplit(url)
    opened = [
        _Connection(parts.netloc, *await asyncio.open_connection(parts.hostname, parts.port))
        for _ in range(connections)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for connection in opened:
                group.create_task(worker(connection))  # type: ignore[arg-type]  # a coroutine function
    except* DependencyDown as refusals:
        raise refusals.exceptions[0] from None
    finally:
        for connection in opened:
            connection.writer.close()


def _summed(took: list[float], seconds: float) -> Load:
    p50, p95, p99 = (np.percentile(took, [50, 95, 99]) * 1000).round(2).tolist()
    return Load(len(took), seconds, p50, p95, p99)
