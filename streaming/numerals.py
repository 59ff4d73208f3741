"""Numbers and times as columns of bytes: decimal text for JSON, binary forms for PostgreSQL."""

import numpy as np
import numpy.typing as npt

from feature_repo.compiled import entry, part
from streaming.columns import NULL, Bytes, Column, Ints, fixed


@part
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


@entry
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


@entry
def _integers(values: Ints, out: npt.NDArray[np.uint8], lengths: Ints) -> None:
    for row in range(values.shape[0]):
        lengths[row] = _digits(out[row], 0, values[row], 1)


def integers(values: npt.NDArray[np.integer]) -> Column:
    """Non-negative integers as decimal text."""
    n = len(values)
    out, lengths = np.empty((n, 20), np.uint8), np.empty(n, np.int64)
    _integers(values.astype(np.int64), out, lengths)
    return Column(out.reshape(-1), np.arange(n, dtype=np.int64) * 20, lengths)


@entry
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


@entry
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
