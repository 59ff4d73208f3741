"""The breaker: who is asked while a server is away, and how long the pauses get."""

import threading

import pytest

from feature_repo.errors import DependencyDown
from streaming import breaker
from streaming.breaker import Breaker, pause_s


class Site:
    """A server that a test switches; its pauses pass when the test says so."""

    def __init__(self) -> None:
        self.away = True
        self.ends = False
        self.probed = 0
        self.bounds: list[float] = []
        self._next, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.breaker = Breaker("server", self.probe, self.wait, 0.5, 4.0)

    def probe(self) -> None:
        self.probed += 1
        if self.away:
            raise DependencyDown("server", "here", "away")

    def wait(self, seconds: float) -> bool:
        self.bounds.append(seconds)
        self._done.release()
        assert self._next.acquire(timeout=30)
        return self.ends

    def pass_pause(self) -> None:
        """Until the breaker pauses again, or has closed."""
        self._next.release()
        while not self._done.acquire(timeout=0.01):
            if not self.breaker.open:
                return


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(breaker.random, "uniform", lambda low, high: high)
    return Site()


def trip(site: Site) -> None:
    site.breaker.trip("away")
    assert site._done.acquire(timeout=30)


def test_it_stays_open_until_a_probe_comes_through_and_pauses_grow_to_their_bound(site: Site) -> None:
    assert not site.breaker.open
    trip(site)
    for _ in range(5):
        site.pass_pause()
        assert site.breaker.open
    site.away = False
    site.pass_pause()
    assert not site.breaker.open
    assert site.probed == 6
    assert site.bounds == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_many_who_find_it_away_make_one_probe(site: Site) -> None:
    trip(site)
    for _ in range(3):
        site.breaker.trip("away")
    site.away = False
    site.pass_pause()
    assert (site.probed, site.breaker.open) == (1, False)


def test_pauses_start_over_only_once_work_came_through(site: Site) -> None:
    for _ in range(3):
        site.away = False
        trip(site)
        site.pass_pause()
    site.breaker.proved()
    trip(site)
    assert site.bounds == [0.5, 1.0, 2.0, 0.5]
    site.pass_pause()


def test_it_ends_with_the_job(site: Site) -> None:
    trip(site)
    site.ends = True
    site._next.release()
    for thread in threading.enumerate():
        if thread.name == "probe of server":
            thread.join(30)
    assert (site.probed, site.breaker.open) == (0, True)


def test_a_pause_may_be_anything_up_to_its_bound() -> None:
    pauses = [pause_s(3, 0.5, 10.0) for _ in range(500)]
    assert 0.0 <= min(pauses) < 0.5 and 3.5 < max(pauses) <= 4.0
    assert max(pause_s(10_000, 0.5, 10.0) for _ in range(100)) <= 10.0
