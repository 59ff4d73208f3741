"""The clock of the nine steps, and where tests halt a process to see what must hold when it dies there, or sleeps.

With VIGIL_HALT_AT=FOLDER the process that is through with a step and can rename FOLDER/STEP to FOLDER/STEP.PID stops
(SIGSTOP): each such file halts one process. Whoever put it there kills that process, or lets it go on later. The steps
are those that the road names to its stopwatch.
"""

import os
import signal
import time
from pathlib import Path

HALT_AT = "VIGIL_HALT_AT"


class Stopwatch:
    """Seconds by step, one lap after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now
        _halt_after(step)


def _halt_after(step: str) -> None:
    folder = os.environ.get(HALT_AT)
    if not folder:
        return
    try:
        (Path(folder) / step).rename(Path(folder) / f"{step}.{os.getpid()}")
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
