"""Readers of alerts over a topic in memory: nothing is missed, nobody waits for a slow one."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack

import pytest

from api.alerts import service as alerts
from api.alerts.schemas import Event, Places, read, written
from api.alerts.service import AlertService
from api.errors import CursorInvalid, ReadersBusy


class MemoryTopic:
    """Two partitions; `kept` is the first offset that is still there."""

    def __init__(self) -> None:
        self.logs: list[list[bytes]] = [[], []]
        self.kept = 0
        self._came = threading.Condition()

    def put(self, *values: int) -> None:
        with self._came:
            for value in values:
                self.logs[value % 2].append(b"%d" % value)
            self._came.notify_all()

    def bounds(self) -> tuple[Places, Places]:
        return dict.fromkeys((0, 1), self.kept), {p: len(log) for p, log in enumerate(self.logs)}

    def events(self, places: Places) -> Generator[list[Event]]:
        while True:
            found = []
            with self._came:
                self._came.wait_for(lambda: any(len(self.logs[p]) > at for p, at in places.items()), 0.05)
                for partition, log in enumerate(self.logs):
                    for value in log[places[partition] :]:
                        places[partition] += 1
                        found.append(Event(written(places), value))
            yield found

    def some(self, places: Places) -> list[Event]:
        return next(self.events(places))


async def heard(pieces: AsyncIterator[bytes], count: int) -> tuple[list[int], str]:
    """The next alerts in order of their numbers, and the id behind them."""
    numbers: list[int] = []
    last = ""
    while len(numbers) < count:
        lines = dict(line.split(": ", 1) for line in (await anext(pieces)).decode().split("\n") if line)
        last = lines["id"]
        if lines.get("event") == "alert":
            numbers.append(int(lines["data"]))
    return sorted(numbers), last


def run(session: object) -> None:
    asyncio.run(asyncio.wait_for(session, 30))  # type: ignore[arg-type]  # a coroutine


def test_who_comes_back_hears_what_came_meanwhile_and_then_what_comes() -> None:
    topic = MemoryTopic()
    service = AlertService(topic)  # type: ignore[arg-type]  # the same methods
    topic.put(1, 2)

    async def session() -> None:
        pieces, held = await service.follow(None)
        topic.put(3, 4, 5)
        assert (await heard(pieces, 3))[0] == [3, 4, 5]
        await held.aclose()
        topic.put(6, 7)
        again, held = await service.follow(written({0: 1, 1: 1}))
        topic.put(8)
        numbers, last = await heard(again, 6)
        assert numbers == [3, 4, 5, 6, 7, 8]
        assert read(last) == topic.bounds()[1]
        await held.aclose()

    run(session())
    service.close()


def test_what_the_topic_no_longer_keeps_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = MemoryTopic()
    service = AlertService(topic)  # type: ignore[arg-type]
    topic.put(*range(10))
    topic.kept = 3

    async def session() -> None:
        pieces, held = await service.follow("0-1.1-4")
        await anext(pieces)
        assert await anext(pieces) == b'event: gap\ndata: {"no longer kept": 2}\n\n'
        assert (await heard(pieces, 3))[0] == [6, 8, 9]
        await held.aclose()

    run(session())
    service.close()


def test_a_slow_reader_is_cut_off_and_the_places_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "WAITING", 5)
    monkeypatch.setattr(alerts, "READERS", 2)
    topic = MemoryTopic()
    service = AlertService(topic)  # type: ignore[arg-type]

    async def session() -> None:
        slow, held = await service.follow(None)
        async with AsyncExitStack() as others:
            quick, other = await service.follow(None)
            await others.enter_async_context(other)
            with pytest.raises(ReadersBusy):
                await service.follow(None)
            for number in range(8):
                topic.put(number)
                assert (await heard(quick, 1))[0] == [number]
        assert len([piece async for piece in slow]) == 1 + 5
        await held.aclose()
        _, held = await service.follow(None)
        await held.aclose()

    run(session())
    service.close()


@pytest.mark.parametrize("place", ["0-0", "0-0.1-999"])
def test_a_place_nobody_was_given_is_refused(place: str) -> None:
    topic = MemoryTopic()
    service = AlertService(topic)  # type: ignore[arg-type]

    async def session() -> None:
        if place == "0-0":
            pieces, held = await service.follow(place)  # from before a partition was added: it begins at its beginning
            topic.put(1)
            assert (await heard(pieces, 1))[0] == [1]
            await held.aclose()
            return
        with pytest.raises(CursorInvalid):
            await service.follow(place)

    run(session())
    service.close()


def test_nothing_new_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "HEARTBEAT_S", 0.05)
    service = AlertService(MemoryTopic())  # type: ignore[arg-type]

    async def session() -> None:
        pieces, held = await service.follow(None)
        assert [await anext(pieces) for _ in range(3)][1:] == [b": nothing new\n\n"] * 2
        await held.aclose()

    run(session())
    service.close()
