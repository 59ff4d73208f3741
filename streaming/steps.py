"""The clock of the nine steps, and the crash points of the tests of what must hold when a process dies there.

VIGIL_CRASH_AT=STEP:FILE kills the process, by SIGKILL, that is through with STEP and manages to remove FILE: each
such file is one death. The steps are those that the road names to its stopwatch.
"""

import os
import signal
import time
from pathlib import Path

CRASH_AT = "VIGIL_CRASH_AT"


class Stopwatch:
    """Seconds by step, one lap after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now
        _crash_after(step)


def _crash_after(step: str) -> None:
    at, _, token = os.environ.get(CRASH_AT, "").partition(":")
    if at != step:
        return
    try:
        Path(token).unlink()
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
