"""Text columns of accepted payments: bytes copied from where `scan` found them, no Python object per value."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import words
from feature_repo.compiled import entry, inlined, source_stamp
from feature_repo.words import U8, store8, word_at

I32 = npt.NDArray[Any]
I64 = npt.NDArray[Any]


@inlined
def _copy(source: U8, begin: int, size: int, out: U8, at: int) -> None:
    """Whole words; up to 7 bytes too many, which the next copy overwrites."""
    for i in range(0, size, 8):
        store8(out, at + i, word_at(source, begin + i))


def _compiled_columns(stamp: str) -> tuple[Callable[..., int], Callable[..., None]]:
    @entry
    def measure(size: I32, kind: U8, rows: I64, offsets: I32, valid: U8) -> int:
        stamp  # noqa: B018 - makes it part of the closure, see compiled.py
        present = end = 0
        offsets[0] = 0
        for position in range(rows.shape[0]):
            row = rows[position]
            if kind[row] != 0:
                valid[position >> 3] |= 1 << (position & 7)
                present += 1
                end += size[row]
            offsets[position + 1] = end
        return present

    @entry
    def fill(data: U8, side: U8, start: I32, rows: I64, offsets: I32, out: U8) -> None:
        stamp  # noqa: B018 - as above
        for position in range(rows.shape[0]):
            at = int(offsets[position])
            size, begin = offsets[position + 1] - at, int(start[rows[position]])
            if begin >= 0:
                _copy(data, begin, size, out, at)
            else:
                _copy(side, -1 - begin, size, out, at)

    return measure, fill


@cache
def _passes() -> tuple[Callable[..., int], Callable[..., None]]:
    """measure: Arrow's offsets and validity bits, how many values are there; fill: their bytes."""
    return _compiled_columns(source_stamp(words))


def text_column(data: U8, side: U8, start: I32, size: I32, kind: U8, rows: I64) -> pa.Array:
    """String column of `rows`: null where kind is 0, else `size` bytes at `start` (below 0: side[-1 - start])."""
    measure, fill = _passes()
    count = len(rows)
    offsets = np.empty(count + 1, np.int32)
    valid = np.zeros((count + 7) // 8, np.uint8)
    present = measure(size, kind, rows, offsets, valid)
    out = np.empty(offsets[-1] + 8, np.uint8)
    if present:
        fill(data, side, start, rows, offsets, out)
    validity = pa.py_buffer(valid) if present < count else None
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(out[: offsets[-1]])]
    return pa.Array.from_buffers(pa.string(), count, buffers, null_count=count - present)
