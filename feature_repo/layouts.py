"""Stored records read: those of this build's layout as they are, those of a former one carried over.

A record's first 24 bytes are the same in every layout (HEADER). A layout that a new one replaces gets an entry in
FORMER if its records can become exactly what the new kernel would have made of the same payments, such as when fields
only move. If they cannot, it gets none: its records are refused, and `vigil state rebuild` folds the payments again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo import state
from feature_repo.errors import StateCorrupt, StateLayoutUnknown
from feature_repo.state import LAYOUT, MAGIC, STATE_BYTES, STATE_DTYPE, States

HEADER = np.dtype([("magic", "<u4"), ("layout", "<u2"), ("of_layout", "<u2"), ("checksum", "<u8"), ("user", "<u8")])


@dataclass(frozen=True)
class Former:
    """A layout of the past: what its records are, and how they become records of today's."""

    dtype: np.dtype[np.void]
    upgrade: Callable[[States], States]  # sound records in, today's out; header and checksum are set by `read`


# Layout 1 has no entry: the decaying sums of layout 2 cannot be had from what it kept.
FORMER: dict[int, Former] = {}


def moved(old: States) -> States:
    """An upgrade where all of today's fields were there before, at other places."""
    states = np.zeros(len(old), STATE_DTYPE)
    for name in STATE_DTYPE.names or ():
        states[name] = old[name]
    return states


def read(values: Sequence[bytes], users: npt.NDArray[np.uint64]) -> States:
    """Stored records of these users, in this order, as sealed records of today's layout; a copy of ours to change.

    Raises StateCorrupt naming what is wrong, StateLayoutUnknown for a layout that cannot be carried over.
    """
    if all(len(value) == STATE_BYTES for value in values):
        states = np.frombuffer(bytearray().join(values), STATE_DTYPE)
        if (states["layout"] == LAYOUT).all():
            state.check(states, users)
            return states
    return _read_mixed(values, users)


def _read_mixed(values: Sequence[bytes], users: npt.NDArray[np.uint64]) -> States:
    layouts = np.array([_layout(row, value, len(values)) for row, value in enumerate(values)])
    states = np.zeros(len(values), STATE_DTYPE)
    for layout in np.unique(layouts).tolist():
        rows = np.flatnonzero(layouts == layout)
        found = np.frombuffer(bytearray().join(values[row] for row in rows.tolist()), _dtype(layout))
        state.check(found, users[rows], layout)
        if layout != LAYOUT:
            found = FORMER[layout].upgrade(found)
            found["magic"], found["layout"], found["user"] = MAGIC, LAYOUT, users[rows]
            state.seal(found)
        states[rows] = found
    return states


def _layout(row: int, value: bytes, count: int) -> int:
    """Of a record that has at least the right magic and length."""
    if len(value) < HEADER.itemsize:
        raise StateCorrupt(f"state record {row} of {count} has {len(value)} bytes")
    header = np.frombuffer(value, HEADER, 1)[0]
    if header["magic"] != MAGIC:
        raise StateCorrupt(f"state record {row} of {count} has a wrong magic")
    layout = int(header["layout"])
    size = _dtype(layout).itemsize
    if len(value) != size:
        raise StateCorrupt(f"state record {row} of {count} has {len(value)} bytes, not {size}")
    return layout


def _dtype(layout: int) -> np.dtype[np.void]:
    if layout == LAYOUT:
        return STATE_DTYPE
    if layout not in FORMER:
        raise StateLayoutUnknown(layout, LAYOUT)
    return FORMER[layout].dtype
