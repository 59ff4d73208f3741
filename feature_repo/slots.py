"""Where each user's record lies in a growing array of states: an open-addressing table of user hashes.

Folding a history touches every payment's user once; a Python dictionary would make an object of each.
"""

import numpy as np
import numpy.typing as npt

from feature_repo.compiled import entry

_FREE = -1
_FIRST_SIZE = 1 << 16  # places; always a power of two


@entry
def _place(
    users: npt.NDArray[np.uint64],
    keys: npt.NDArray[np.uint64],
    values: npt.NDArray[np.int64],
    count: int,
    out: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
) -> int:
    """Give each user a slot, new ones counting from `count`; returns how many slots there are then."""
    mask = np.uint64(keys.shape[0] - 1)
    start = count
    for i in range(users.shape[0]):
        at = np.int64(users[i] & mask)  # the hash is already uniform
        while values[at] != _FREE and keys[at] != users[i]:
            at = np.int64(np.uint64(at + 1) & mask)
        if values[at] == _FREE:
            keys[at] = users[i]
            values[at] = count
            first[count - start] = i
            count += 1
        out[i] = values[at]
    return count


class Slots:
    """User hashes in order of their first appearance."""

    def __init__(self) -> None:
        self._count = 0
        self._keys = np.zeros(_FIRST_SIZE, np.uint64)
        self._values = np.full(_FIRST_SIZE, _FREE, np.int64)

    def __len__(self) -> int:
        return self._count

    def place(self, users: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Slot of each user, and the rows where a user appears for the first time ever.

        New users get the next slots in the order of those rows.
        """
        if 2 * (self._count + len(users)) > len(self._keys):
            self._resize(4 * (self._count + len(users)))
        out = np.empty(len(users), np.int64)
        first = np.empty(len(users), np.int64)
        before = self._count
        self._count = _place(users, self._keys, self._values, before, out, first)
        return out, first[: self._count - before]

    def _resize(self, wanted: int) -> None:
        """A table of at least `wanted` places, a power of two, with the same users in it."""
        held = np.empty(self._count, np.uint64)
        if self._count:
            full = self._values != _FREE
            held[self._values[full]] = self._keys[full]
        size = 1 << (wanted - 1).bit_length()
        self._keys = np.zeros(size, np.uint64)
        self._values = np.full(size, _FREE, np.int64)
        if len(held):
            unused = np.empty(len(held), np.int64)
            _place(held, self._keys, self._values, 0, unused, unused.copy())
