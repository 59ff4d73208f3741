"""How many records a batch may hold, so that it takes no longer than it should: measured, not guessed.

A batch of n records takes about a + b * n seconds. Both follow from the batches lately taken, by least squares in
which older ones count less. Spark reads the bound once, when a query starts, so a new one costs a restart of the
query (some tenths of a second, nothing lost): it is worth that only where batches fill the old one and it is far off.
"""

import math

import numpy as np
import numpy.typing as npt

FIRST = 50_000  # records, before anything was measured
LEAST = 2_000  # below it the fixed cost is most of what a batch takes, whatever it holds
FIXED_S = 0.2  # what a batch is taken to cost whatever it holds until batches of several sizes say otherwise
MEMORY = 0.9  # weight of a batch against the one after it
FULL = 0.9  # of the bound: a batch that held so much would have held more
WORTH_IT = 1.5  # times the old bound, either way
STEP = 4.0  # at most so many times more or fewer at once: a line through two sizes may be far off at a third
SETTLE_S = 10.0  # between two changes
ENOUGH = 5  # batches after those, before a change: one alone may have been in somebody's way
WARMING = 4  # batches of a new query that tell nothing: workers start, and code is being compiled


def _sums(records: float, seconds: float) -> npt.NDArray[np.float64]:
    """Of one batch, to be added up: 1, n, n * n, s and n * s for n records that took s seconds."""
    return np.array([1.0, records, records**2, seconds, records * seconds])


class Pace:
    """The bound of one job's batches, `cap` in records of all partitions together; times are in seconds."""

    def __init__(self, target_s: float, most: int) -> None:
        self._target_s = target_s
        self._most = most
        self.cap = min(FIRST, most)
        # A batch of another size is never forgotten, as of batches that are all alike nobody could tell the fixed
        # cost: one of no records, then the usual one under the bound before this.
        self._other = _sums(0, FIXED_S)
        self._sums = np.zeros(5)
        self._changed = -math.inf
        self._full = False
        self._taken = 0  # batches under this bound

    def batch(self, records: int, seconds: float) -> None:
        """A batch was taken."""
        if not records:
            return
        self._taken += 1
        if self._taken <= WARMING:
            return
        self._sums = MEMORY * self._sums + _sums(records, seconds)
        self._full = records >= FULL * self.cap

    def cost(self) -> tuple[float, float]:
        """Seconds a batch takes whatever it holds, and more with every record: b is 0 where none was taken yet."""
        if not self._sums.any():
            return FIXED_S, 0.0
        w, n, nn, s, ns = (self._sums + self._other).tolist()
        b = (w * ns - n * s) / (w * nn - n**2)
        a = (s - b * n) / w
        if a >= 0 and b > 0:
            return a, b
        return 0.0, float(self._sums[3] / self._sums[1])  # of noise no fixed cost can be told

    def line(self) -> str:
        """What a batch costs, for the log."""
        a, b = self.cost()
        return f"{a:.2f} s and {b * 1e6:.1f} us a record"

    def changed(self, now: float) -> bool:
        """Whether the query is to be started again with another `cap`, which is set by this.

        Half of a batch's time goes to its records even where the target leaves less for them: below that a smaller
        batch takes hardly less time, and what waits would never be caught up with. What a batch costs whatever it
        holds is known from the second size on.
        """
        a, b = self.cost()
        if not b or self._taken < WARMING + ENOUGH or now - self._changed < SETTLE_S:
            return False
        measured = math.isfinite(self._changed)  # under another bound, too
        wanted = round(max(self._target_s - a, a if measured else 0.0) / b)
        wanted = min(max(wanted, LEAST, round(self.cap / STEP)), self._most, round(self.cap * STEP))
        if not self._full or 1 / WORTH_IT < wanted / self.cap < WORTH_IT:
            return False
        w, n, _, s, _ = self._sums.tolist()
        self._other, self._sums = _sums(n / w, s / w), np.zeros(5)
        self.cap, self._changed, self._full, self._taken = wanted, now, False, 0
        return True
