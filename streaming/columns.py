"""Columns of bytes: how rows leave the process without ever being Python objects.

A `Column` says where the bytes of each row's field lie. Laying the fields of many columns row by row
beside each other (`join`) makes PostgreSQL's binary COPY format with a length before each field, and a
stream of JSON documents without.
"""

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.hashing import text_buffers

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NULL = -1  # as a length: the field is absent


@dataclass(frozen=True)
class Column:
    """Row i's bytes are data[starts[i] : starts[i] + lengths[i]]; a length of NULL is SQL's null."""

    data: Bytes
    starts: Ints
    lengths: Ints

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


def constant(value: bytes | None, n: int) -> Column:
    """The same bytes in every row, or null in every row."""
    data = np.frombuffer(value or b"\0", np.uint8)
    length = NULL if value is None else len(value)
    return Column(data, np.zeros(n, np.int64), np.full(n, length, np.int64))


def coded(table: list[bytes | None], codes: npt.NDArray[np.integer]) -> Column:
    """Row i's bytes are table[codes[i]]; None in the table is null."""
    sizes = np.array([0 if entry is None else len(entry) for entry in table], np.int64)
    data = np.frombuffer(b"".join(entry or b"" for entry in table) or b"\0", np.uint8)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    lengths = np.where([entry is None for entry in table], NULL, sizes).astype(np.int64)
    at = codes.astype(np.int64)
    return Column(data, starts[at], lengths[at])


def take(column: Column, rows: Ints) -> Column:
    return Column(column.data, column.starts[rows], column.lengths[rows])


# ---- text and binary forms of numbers -------------------------------------------------------------------


@numba.njit(inline="always")
def _digits(line: Bytes, at: int, value: int, width: int) -> int:
    """`value` in decimal, zero-padded to at least `width` digits; returns the position after it."""
    size = 1
    bound = np.int64(10)
    while size < 19 and value >= bound:
        size += 1
        bound *= 10
    size = max(size, width)
    for position in range(size - 1, -1, -1):
        line[at + position] = 48 + value % 10
        value //= 10
    return at + size


def _scaled(values: npt.NDArray[np.float64], places: int) -> Ints:
    """values * 10**places as integers; whole and fraction apart, as their product would pass 2**53."""
    whole = np.floor(values)
    return whole.astype(np.int64) * 10**places + np.round((values - whole) * 10**places).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _decimals(scaled: Ints, decimals: int, out: npt.NDArray[np.uint8], lengths: Ints) -> None:
    unit = np.int64(10) ** decimals
    for row in range(scaled.shape[0]):
        if lengths[row] < 0:
            continue
        line = out[row]
        at = _digits(line, 0, scaled[row] // unit, 1)
        line[at] = 46
        at = _digits(line, at + 1, scaled[row] % unit, decimals)
        while line[at - 1] == 48 and line[at - 2] != 46:
            at -= 1
        lengths[row] = at


def decimals(values: npt.NDArray[np.floating], places: int, present: npt.NDArray[np.bool_] | None = None) -> Column:
    """Non-negative numbers as decimal text with at most `places` decimals and at least one: 1500.0."""
    n = len(values)
    lengths = np.zeros(n, np.int64)
    if present is not None:
        lengths[~present] = NULL
    scaled = _scaled(np.nan_to_num(values).astype(np.float64), places)
    out = np.empty((n, 24), np.uint8)
    _decimals(scaled, places, out, lengths)
    return Column(out.reshape(-1), np.arange(n, dtype=np.int64) * 24, lengths)


@numba.njit(cache=True, nogil=True)
def _integers(values: Ints, out: npt.NDArray[np.uint8], lengths: Ints) -> None:
    for row in range(values.shape[0]):
        lengths[row] = _digits(out[row], 0, values[row], 1)


def integers(values: npt.NDArray[np.integer]) -> Column:
    """Non-negative integers as decimal text."""
    n = len(values)
    out, lengths = np.empty((n, 20), np.uint8), np.empty(n, np.int64)
    _integers(values.astype(np.int64), out, lengths)
    return Column(out.reshape(-1), np.arange(n, dtype=np.int64) * 20, lengths)


@numba.njit(cache=True, nogil=True)
def _timestamps(micros: Ints, out: npt.NDArray[np.uint8]) -> None:
    for row in range(micros.shape[0]):
        day = micros[row] // 86_400_000_000
        rest = micros[row] - day * 86_400_000_000
        # civil date from days since 1970 (Hinnant, chrono-compatible low-level date algorithms)
        z = day + 719_468
        era = z // 146_097
        doe = z - era * 146_097
        yoe = (doe - doe // 1_460 + doe // 36_524 - doe // 146_096) // 365
        doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
        mp = (5 * doy + 2) // 153
        month = mp + 3 if mp < 10 else mp - 9
        line = out[row]
        _digits(line, 0, yoe + era * 400 + (1 if month <= 2 else 0), 4)
        line[4] = line[7] = 45
        _digits(line, 5, month, 2)
        _digits(line, 8, doy - (153 * mp + 2) // 5 + 1, 2)
        line[10] = 84
        second = rest // 1_000_000
        _digits(line, 11, second // 3_600, 2)
        line[13] = line[16] = 58
        _digits(line, 14, second // 60 % 60, 2)
        _digits(line, 17, second % 60, 2)
        line[19] = 46
        _digits(line, 20, rest % 1_000_000, 6)
        line[26] = 90


def timestamps(micros: Ints) -> Column:
    """Microseconds since 1970 as RFC 3339 text, always with six decimals and Z. Years 0 to 9999."""
    out = np.empty((len(micros), 27), np.uint8)
    _timestamps(micros, out)
    return fixed(out)


@numba.njit(cache=True, nogil=True)
def _numerics(scaled: Ints, out: npt.NDArray[np.uint8], lengths: Ints) -> None:
    for row in range(scaled.shape[0]):
        line = out[row]
        value = scaled[row]
        groups = 0
        rest = value
        while rest > 0:
            groups += 1
            rest //= 10_000
        line[0], line[1] = 0, groups
        weight = groups - 2 if groups else 0  # the last group holds the four decimals
        line[2], line[3] = (weight >> 8) & 0xFF, weight & 0xFF
        line[4] = line[5] = line[6] = 0
        line[7] = 4
        for group in range(groups - 1, -1, -1):
            digit = value % 10_000
            value //= 10_000
            line[8 + 2 * group], line[9 + 2 * group] = digit >> 8, digit & 0xFF
        lengths[row] = 8 + 2 * groups


def numerics(values: npt.NDArray[np.float64]) -> Column:
    """Non-negative amounts with at most four decimals in PostgreSQL's binary numeric format."""
    n = len(values)
    out, lengths = np.empty((n, 20), np.uint8), np.empty(n, np.int64)
    _numerics(_scaled(values, 4), out, lengths)
    return Column(out.reshape(-1), np.arange(n, dtype=np.int64) * 20, lengths)


# ---- text inside JSON ---------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _needs_escape(data: Bytes, starts: Ints, lengths: Ints, out: npt.NDArray[np.bool_]) -> None:
    for row in range(starts.shape[0]):
        out[row] = False
        for at in range(starts[row], starts[row] + lengths[row]):
            if data[at] < 32 or data[at] == 34 or data[at] == 92:
                out[row] = True


@numba.njit(cache=True, nogil=True)
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
    dirty = np.empty(n, np.bool_)
    _needs_escape(column.data, column.starts, column.lengths, dirty)
    if not dirty.any():
        return column
    out = np.empty(6 * int(np.maximum(column.lengths, 0).sum()) + 1, np.uint8)
    starts, lengths = np.empty(n, np.int64), np.empty(n, np.int64)
    _escape(column.data, column.starts, column.lengths, out, starts, lengths)
    return Column(out, starts, lengths)


# ---- rows ---------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _join(
    data: Bytes,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    framed: bool,
    out: Bytes,
    ends: Ints,
) -> None:
    fields, n = starts.shape
    to = 0
    for row in range(n):
        if framed:
            out[to], out[to + 1] = 0, fields
            to += 2
        for field in range(fields):
            size = lengths[field, row]
            if framed:
                for shift in range(4):
                    out[to + shift] = (size >> (24 - 8 * shift)) & 0xFF
                to += 4
            at = starts[field, row]
            for byte in range(size):
                out[to + byte] = data[at + byte]
            to += max(size, 0)
        ends[row] = to


def join(columns: list[Column], *, framed: bool) -> tuple[Bytes, Ints]:
    """Fields of each row beside each other; returns the bytes and where each row ends.

    `framed` puts PostgreSQL's field count before a row and a length before a field (COPY binary, without
    the file's header and trailer); without it an absent field is simply nothing.
    """
    n = len(columns[0])
    bases = np.concatenate(([0], np.cumsum([column.data.size for column in columns])[:-1]))
    data = np.concatenate([column.data for column in columns])
    starts = np.stack([column.starts + base for column, base in zip(columns, bases, strict=True)])
    lengths = np.stack([column.lengths for column in columns])
    total = int(np.maximum(lengths, 0).sum()) + ((4 * len(columns) + 2) * n if framed else 0)
    out, ends = np.empty(total, np.uint8), np.empty(n, np.int64)
    _join(data, starts, lengths, framed, out, ends)
    return out, ends
