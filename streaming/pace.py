"""How many records a batch may hold, so that it takes no longer than it should: measured, not guessed.

A batch of n records takes about a + b * n seconds. Both follow from the batches lately taken, by least squares in
which older ones count less. Spark reads the bound once, when a query starts, so a new one costs a restart of the
query (some tenths of a second, nothing lost): it is worth that only where batches fill the old one and it is far off.
"""

import math

import numpy as np

FIRST = 50_000  # records, before anything was measured
LEAST = 2_000  # below it the fixed cost is most of what a batch takes, whatever it holds
FIXED_S = 0.2  # what a batch is taken to cost whatever it holds until batches of several sizes say otherwise
MEMORY = 0.9  # weight of a batch against the one after it
FULL = 0.9  # of the bound: a batch that held so much would have held more
WORTH_IT = 1.5  # times the old bound, either way
# Sums over batches of 1, n, n * n, s and n * s, n in records and s in seconds. One of no records is never forgotten:
# of batches that are all alike nobody could tell the fixed cost.
EMPTY = np.array([1.0, 0.0, 0.0, FIXED_S, 0.0])
SETTLE_S = 10.0  # between two changes
WARMING = 4  # batches of a new query that tell nothing: workers start, and code is being compiled


class Pace:
    """The bound of one job's batches, `cap` in records of all partitions together; times are in seconds."""

    def __init__(self, target_s: float, most: int) -> None:
        self._target_s = target_s
        self._most = most
        self.cap = min(FIRST, most)
        self._sums = EMPTY
        self._changed = -math.inf
        self._full = False
        self._warming = WARMING

    def batch(self, records: int, seconds: float) -> None:
        """A batch was taken."""
        if not records:
            return
        if self._warming:
            self._warming -= 1
            return
        taken = np.array([1.0, records, records**2, seconds, records * seconds])
        self._sums = MEMORY * self._sums + taken + (1 - MEMORY) * EMPTY
        self._full = records >= FULL * self.cap

    def cost(self) -> tuple[float, float]:
        """Seconds a batch takes whatever it holds, and more with every record: b is 0 where none was taken yet."""
        w, n, nn, s, ns = self._sums.tolist()
        if not n:
            return FIXED_S, 0.0
        b = (w * ns - n * s) / (w * nn - n**2)
        a = (s - b * n) / w
        return (a, b) if a >= 0 and b > 0 else (0.0, s / n)  # of noise no fixed cost can be told

    def line(self) -> str:
        """What a batch costs, for the log."""
        a, b = self.cost()
        return f"{a:.2f} s and {b * 1e6:.1f} us a record"

    def changed(self, now: float) -> bool:
        """Whether the query is to be started again with another `cap`, which is set by this."""
        a, b = self.cost()
        if not b or now - self._changed < SETTLE_S:
            return False
        wanted = round(max(self._target_s - a, 0.0) / b)
        wanted = min(max(wanted, LEAST), self._most)
        if not self._full or 1 / WORTH_IT < wanted / self.cap < WORTH_IT:
            return False
        self.cap, self._changed, self._full, self._warming = wanted, now, False, WARMING
        return True
