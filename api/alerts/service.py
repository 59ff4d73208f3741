"""Flagged payments as they come, for many readers by one consumer; each can go on where it broke off."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field

from api.alerts.repository import AlertTopic
from api.alerts.schemas import Event, Places, read, written
from api.errors import CursorInvalid, ReadersBusy

READERS = 64
WAITING = 1_000  # alerts that a slow reader may be behind; then it is cut off, and comes back where it was
HEARTBEAT_S = 10.0  # with ring.OLD_S under a minute: the key of a quiet stream is looked at no more often
RETRY_MS = 3_000


@dataclass(eq=False)
class Reader:
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(WAITING))
    slow: bool = False

    def give(self, events: list[Event]) -> None:
        """In the reader's own loop."""
        for event in events:
            if self.queue.full():
                self.slow = True
                return
            self.queue.put_nowait(event)


class AlertService:
    """One per process. Its consumer runs from the first reader on until `close`."""

    def __init__(self, topic: AlertTopic) -> None:
        self._topic = topic
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()
        self._places: Places | None = None  # of the consumer, as far as readers were told
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def follow(self, last_id: str | None) -> tuple[AsyncIterator[bytes], AsyncExitStack]:
        """Server-sent events behind that one, or from now on, and what has to be closed after them.

        Raises ReadersBusy, CursorInvalid, DependencyDown.
        """
        wanted = None if last_id is None else read(last_id)
        reader = Reader(asyncio.get_running_loop())
        async with AsyncExitStack() as opened:
            joined = await asyncio.to_thread(self._join, reader)
            opened.callback(self._leave, reader)
            missed: dict[int, int] = {}
            if wanted is not None:
                first, _ = await asyncio.to_thread(self._topic.bounds)
                if any(offset > joined.get(partition, -1) for partition, offset in wanted.items()):
                    raise CursorInvalid  # no place of this topic
                wanted = {partition: wanted.get(partition, 0) for partition in joined}
                missed = {p: first[p] - offset for p, offset in wanted.items() if offset < first[p]}
                wanted = {p: max(offset, first[p]) for p, offset in wanted.items()}
            held = opened.pop_all()
        return self._sent(reader, wanted, joined, missed), held

    def close(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    async def _sent(
        self, reader: Reader, wanted: Places | None, joined: Places, missed: dict[int, int]
    ) -> AsyncIterator[bytes]:
        # An id without data tells the client where it stands, should it lose us before the first alert.
        yield b"retry: %d\nid: %s\n\n" % (RETRY_MS, written(wanted or joined).encode())
        if any(missed.values()):
            yield b"event: gap\ndata: %s\n\n" % json.dumps({"no longer kept": sum(missed.values())}).encode()
        if wanted is not None:
            async for event in self._between(wanted, joined):
                yield event.sent()
        while not (reader.slow and reader.queue.empty()):
            try:
                yield (await asyncio.wait_for(reader.queue.get(), HEARTBEAT_S)).sent()
            except TimeoutError:
                yield b": nothing new\n\n"

    async def _between(self, places: Places, until: Places) -> AsyncIterator[Event]:
        """From the topic itself: what a reader that comes back has not seen."""
        while any(places[partition] < until[partition] for partition in places):
            events = await asyncio.to_thread(self._topic.some, places)
            if not events:  # deleted meanwhile, or Kafka is slow: `bounds` raises where it does not answer at all
                first, _ = await asyncio.to_thread(self._topic.bounds)
                if any(first[partition] > places[partition] for partition in places):
                    return
            for event in events:
                yield event

    def _join(self, reader: Reader) -> Places:
        """The places from which on the reader is told. Blocks."""
        with self._lock:
            if len(self._readers) >= READERS:
                raise ReadersBusy
            if self._places is None:
                _, self._places = self._topic.bounds()
                self._thread = threading.Thread(target=self._run, name="vigil-alerts", daemon=True)
                self._thread.start()
            self._readers.add(reader)
            return dict(self._places)

    def _leave(self, reader: Reader) -> None:
        with self._lock:
            self._readers.discard(reader)

    def _run(self) -> None:
        assert self._places is not None, "set by _join"
        with closing(self._topic.events(dict(self._places))) as pieces:
            for events in pieces:
                if self._stopping.is_set():
                    return
                if not events:
                    continue
                with self._lock:
                    self._places = read(events[-1].id)
                    for reader in self._readers:
                        reader.loop.call_soon_threadsafe(reader.give, events)
