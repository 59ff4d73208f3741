"""Waiting for a server that is away: how long, and whether work asks it at all meanwhile."""

import logging
import random
import threading
from collections.abc import Callable

from feature_repo.errors import VigilError

log = logging.getLogger(__name__)


def pause_s(tries: int, first_s: float, longest_s: float) -> float:
    """Full jitter: anything up to a bound that doubles with each try, so that many who wait do not return at once."""
    return random.uniform(0.0, min(longest_s, first_s * 2.0 ** min(tries, 30)))


class Breaker:
    """Open while a server is away: work goes on without it and never waits for it.

    Half open is the business of a thread of its own: after a pause it probes, and the first probe that comes through
    closes the breaker. Pauses go on growing until work has `proved` that the server does more than answer probes.
    """

    def __init__(
        self, name: str, probe: Callable[[], object], wait: Callable[[float], bool], first_s: float, longest_s: float
    ) -> None:
        """`probe` raises a VigilError while the server is away; `wait` sleeps, and is true when it is time to end."""
        self.name = name
        self._probe = probe
        self._wait = wait
        self._bounds_s = (first_s, longest_s)
        self._lock = threading.Lock()
        self._open = False
        self._tries = 0

    @property
    def open(self) -> bool:
        return self._open

    def trip(self, cause: object) -> None:
        """Work has found the server away; nothing happens where that is known."""
        with self._lock:
            if self._open:
                return
            self._open = True
        log.warning("%s is left alone until it answers a probe: %s", self.name, cause)
        threading.Thread(target=self._until_well, name=f"probe of {self.name}", daemon=True).start()

    def proved(self) -> None:
        """Work came through."""
        self._tries = 0

    def _until_well(self) -> None:
        said = ""
        while not self._wait(pause_s(self._tries, *self._bounds_s)):
            self._tries += 1
            try:
                self._probe()
            except VigilError as error:
                if str(error) != said:  # once, however long it lasts
                    log.info("%s is still away: %s", self.name, error)
                said = str(error)
                continue
            log.warning("%s is back", self.name)
            self._open = False
            return
