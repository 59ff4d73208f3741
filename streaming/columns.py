"""Columns of bytes: how rows leave the process without ever being Python objects.

A `Column` says where the bytes of each row's field lie. Laying the fields of many columns row by row
beside each other (`join`), with bytes that are the same in every row between them, makes JSON documents
and PostgreSQL's binary COPY format.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import words
from feature_repo.compiled import entry, source_stamp
from feature_repo.hashing import text_buffers
from feature_repo.words import load8, store8

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NULL = -1  # as a length: the field is absent


@dataclass(frozen=True)
class Column:
    """Row i's bytes are data[starts[i] : starts[i] + lengths[i]]; a length of NULL is SQL's null.

    A `framed` column is one field of COPY's binary format: `join` writes its length before it.
    """

    data: Bytes
    starts: Ints
    lengths: Ints
    framed: bool = False

    def __len__(self) -> int:
        return len(self.starts)


def texts(column: pa.Array) -> Column:
    """A string or binary arrow column, as it lies in memory."""
    data, offsets, valid = text_buffers(column)
    lengths = np.diff(offsets).astype(np.int64)
    lengths[valid == 0] = NULL
    return Column(data, offsets[:-1].astype(np.int64), lengths)


def fixed(matrix: npt.NDArray[np.generic], present: npt.NDArray[np.bool_] | None = None) -> Column:
    """Row i's bytes are row i of a contiguous array as it lies in memory; null where not `present`."""
    n = len(matrix)
    data = np.ascontiguousarray(matrix).view(np.uint8).reshape(-1)
    width = data.size // n if n else 0
    lengths = np.full(n, width, np.int64)
    if present is not None:
        lengths[~present] = NULL
    return Column(data, np.arange(n, dtype=np.int64) * width, lengths)


def coded(table: Sequence[bytes], codes: npt.NDArray[np.integer]) -> Column:
    """Row i's bytes are table[codes[i]]."""
    sizes = np.array([len(text) for text in table], np.int64)
    data = np.frombuffer(b"".join(table) or b"\0", np.uint8)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    return Column(data, starts[codes], sizes[codes])


def framed(column: Column) -> Column:
    return replace(column, framed=True)


def or_else(column: Column, text: bytes) -> Column:
    """The column with `text` where it is null."""
    absent = column.lengths < 0
    if not absent.any():
        return column
    data = np.concatenate([column.data, np.frombuffer(text, np.uint8)])
    starts, lengths = np.where(absent, column.data.size, column.starts), np.where(absent, len(text), column.lengths)
    return replace(column, data=data, starts=starts, lengths=lengths)


# ---- text inside JSON ---------------------------------------------------------------------------------


@entry
def _to_escape(data: Bytes) -> bool:
    """Whether there is a byte that JSON text may not hold as it is: a control character, a quote, a backslash."""
    found = False
    for at in range(data.shape[0]):
        found |= (data[at] < 32) | (data[at] == 34) | (data[at] == 92)
    return found


@entry
def _escape(data: Bytes, starts: Ints, lengths: Ints, out: Bytes, new_starts: Ints, new_lengths: Ints) -> None:
    hexes = b"0123456789abcdef"
    to = 0
    for row in range(starts.shape[0]):
        new_starts[row] = to
        for at in range(starts[row], starts[row] + lengths[row]):
            byte = data[at]
            if byte < 32:
                for escape in b"\\u00":
                    out[to] = escape
                    to += 1
                out[to], out[to + 1] = hexes[byte >> 4], hexes[byte & 15]
                to += 2
                continue
            if byte == 34 or byte == 92:
                out[to] = 92
                to += 1
            out[to] = byte
            to += 1
        new_lengths[row] = to - new_starts[row] if lengths[row] >= 0 else -1


def json_text(column: Column) -> Column:
    """The text of a UTF-8 column as it stands between the quotes of a JSON string."""
    n = len(column)
    if not _to_escape(column.data):
        return column
    out = np.empty(6 * int(np.maximum(column.lengths, 0).sum()) + 1, np.uint8)
    starts, lengths = np.empty(n, np.int64), np.empty(n, np.int64)
    _escape(column.data, column.starts, column.lengths, out, starts, lengths)
    return Column(out, starts, lengths)


# ---- rows ---------------------------------------------------------------------------------------------

SLACK = 8  # bytes behind every buffer that is copied eight bytes at a time


def _compiled_join(stamp: str) -> Callable[..., None]:
    @entry
    def join_rows(
        data: Bytes, starts: Ints, lengths: Ints, framed: Bytes, literals: Bytes, literal_ends: Ints, out: Bytes,
        ends: Ints,
    ) -> None:  # fmt: skip
        stamp  # noqa: B018 - makes it part of the closure, see compiled.py
        fields = starts.shape[0]
        to = 0
        for row in range(starts.shape[1]):
            for field in range(fields + 1):
                at = literal_ends[field]
                size = literal_ends[field + 1] - at
                for byte in range(0, size, 8):
                    store8(out, to + byte, load8(literals, at + byte))
                to += size
                if field == fields:
                    break
                size = lengths[field, row]
                if framed[field]:
                    for shift in range(4):
                        out[to + shift] = (size >> (24 - 8 * shift)) & 0xFF
                    to += 4
                at = starts[field, row]
                for byte in range(0, size, 8):
                    store8(out, to + byte, load8(data, at + byte))
                to += max(size, 0)
            ends[row] = to

    return join_rows


@cache
def _join_rows() -> Callable[..., None]:
    return _compiled_join(source_stamp(words))


def join(parts: Sequence[Column | bytes], order: Ints | None = None) -> tuple[Bytes, Ints]:
    """Fields of each row beside each other, rows in `order`; returns the bytes and where each row ends.

    `parts` are columns of equal length, at least one, and bytes that are the same in every row. A null
    field that is not framed is simply nothing.
    """
    columns = [part for part in parts if isinstance(part, Column)]
    literals = [b""]
    for part in parts:
        if isinstance(part, Column):
            literals.append(b"")
        else:
            literals[-1] += part
    n = len(columns[0])
    buffers = [column.data for column in columns]
    bases = np.concatenate(([0], np.cumsum([buffer.size for buffer in buffers])))
    starts, lengths = np.empty((len(columns), n), np.int64), np.empty((len(columns), n), np.int64)
    for field, column in enumerate(columns):  # put in order one by one: a row's at once would miss the cache at each
        np.add(column.starts if order is None else column.starts[order], bases[field], out=starts[field])
        lengths[field] = column.lengths if order is None else column.lengths[order]
    framed = np.array([column.framed for column in columns], np.uint8)
    between = b"".join(literals)
    total = int(np.maximum(lengths, 0).sum()) + (len(between) + 4 * int(framed.sum())) * n
    out, ends = np.empty(total + SLACK, np.uint8), np.empty(n, np.int64)
    _join_rows()(
        np.concatenate([*buffers, np.zeros(SLACK, np.uint8)]), starts, lengths, framed,
        np.frombuffer(bytearray(between + bytes(SLACK)), np.uint8), np.cumsum([0, 0, *map(len, literals)])[1:],
        out, ends,
    )  # fmt: skip
    return out[:total], ends
