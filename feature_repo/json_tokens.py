"""The tokens of JSON (RFC 8259), strictly: bytes in, where a token ends and what it is.

Compiled by numba into whatever calls it; see `compiled.py` for what that asks of its callers.
"""

import numpy as np

from feature_repo.compiled import part
from feature_repo.words import HIGH, ONES, U8, low_byte, word_at

# A finding is a small number; the parser gives it a code and a sentence.
OK, TOMBSTONE, TOO_LARGE, EMPTY, NOT_UTF8, NOT_JSON, NOT_OBJECT, TOO_DEEP, TOO_MANY_KEYS = range(9)
DUPLICATE_KEY, NUMBER_NOT_FINITE, INVALID_UNICODE, SECRET_FIELD = range(9, 13)

# A token: its kind in the low three bits, above them what the bytes of a string were seen to hold.
ABSENT, STRING, NUMBER, BOOLEAN, NULL, NESTED = range(6)
KIND = 7
ESCAPED, NON_ASCII, CONTROL, VISIBLE, DIGIT = 8, 16, 32, 64, 128

_STOP = 1  # ends a run of ordinary bytes in a string: a quote, a backslash, a control character


def _byte_classes() -> U8:
    classes = np.full(256, VISIBLE, np.uint8)
    classes[:0x20] = _STOP
    classes[[0x22, 0x5C]] = _STOP  # quote, backslash
    classes[0x20] = 0
    classes[0x30:0x3A] |= DIGIT
    classes[0x7F] = CONTROL  # legal in JSON, like 0x80 to 0x9F, and not in our fields
    classes[0x80:] |= NON_ASCII
    return classes


_CLASS = _byte_classes()
_QUOTES, _BACKSLASHES, _SPACES = 0x22 * ONES, 0x5C * ONES, 0x20 * ONES  # one in each byte of a word
_ZEROS, _TENS, _DELETES = 0x30 * ONES, 0x0A * ONES, 0x7F * ONES
# The least number float64 rounds to infinity has 309 digits; these are its first forty.
_OVERFLOW = np.array([int(digit) for digit in str(2**1024 - 2**970)[:40]], np.uint8)


@part
def _hex4(data: U8, i: int, stop: int) -> int:
    """The number written in four hexadecimal digits, -1 where they are none."""
    if i + 4 > stop:
        return -1
    value = 0
    for k in range(i, i + 4):
        byte = int(data[k])
        letter = byte | 0x20
        if 0x30 <= byte <= 0x39:
            value = value * 16 + byte - 0x30
        elif 0x61 <= letter <= 0x66:
            value = value * 16 + letter - 0x57
        else:
            return -1
    return value


@part
def _escape(data: U8, i: int, stop: int) -> tuple[int, bool]:
    """From a backslash: where the escape ends (-1: not a legal one), and whether it is half of a pair."""
    if i + 1 >= stop:
        return -1, False
    byte = data[i + 1]
    if byte != 0x75:
        return (i + 2 if byte in (0x22, 0x5C, 0x2F, 0x62, 0x66, 0x6E, 0x72, 0x74) else -1), False  # " \\ / b f n r t
    unit = _hex4(data, i + 2, stop)
    i += 6
    if unit < 0:
        return -1, False
    if not 0xD800 <= unit <= 0xDFFF:
        return i, False
    follows = unit < 0xDC00 and i + 1 < stop and data[i] == 0x5C and data[i + 1] == 0x75
    if follows and 0xDC00 <= _hex4(data, i + 2, stop) <= 0xDFFF:
        return i + 6, False
    return i, True


@part
def string(data: U8, i: int, stop: int) -> tuple[int, int, bool]:
    """From behind the opening quote: the closing one (-1: none legal), what was seen, lone surrogate."""
    unspaced = wide = digits = deletes = np.uint64(0)
    escaped, lone = 0, False
    while i < stop:
        word = word_at(data, i)
        quotes, backslashes = word ^ _QUOTES, word ^ _BACKSLASHES
        ends = (quotes - ONES) & ~quotes | (backslashes - ONES) & ~backslashes | (word - _SPACES) & ~word
        size = low_byte(ends & HIGH)
        if size < 8:  # what follows is not of this string
            behind = np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(8 * size)
            word = word & ~behind | _SPACES & behind
        from_zero, from_delete = word ^ _ZEROS, word ^ _DELETES
        unspaced |= word ^ _SPACES
        wide |= word
        digits |= (from_zero - _TENS) & ~from_zero
        deletes |= (from_delete - ONES) & ~from_delete
        i += size
        if size == 8:
            continue
        if i >= stop:
            break
        if data[i] == 0x22:
            seen = escaped | (VISIBLE if unspaced else 0) | (NON_ASCII if wide & HIGH else 0)
            seen |= (DIGIT if digits & HIGH else 0) | (CONTROL if deletes & HIGH else 0)
            return i, seen, lone
        if data[i] != 0x5C:
            break
        escaped = ESCAPED
        i, half = _escape(data, i, stop)
        lone |= half
        if i < 0:
            break
    return -1, 0, lone


@part
def _put_utf8(point: int, out: U8, at: int) -> int:
    if point < 0x80:
        out[at] = point
        return at + 1
    if point < 0x800:
        out[at] = 0xC0 | (point >> 6)
        out[at + 1] = 0x80 | (point & 0x3F)
        return at + 2
    if point < 0x10000:
        out[at] = 0xE0 | (point >> 12)
        out[at + 1] = 0x80 | ((point >> 6) & 0x3F)
        out[at + 2] = 0x80 | (point & 0x3F)
        return at + 3
    out[at] = 0xF0 | (point >> 18)
    out[at + 1] = 0x80 | ((point >> 12) & 0x3F)
    out[at + 2] = 0x80 | ((point >> 6) & 0x3F)
    out[at + 3] = 0x80 | (point & 0x3F)
    return at + 4


@part
def unescape(data: U8, i: int, stop: int, out: U8, at: int) -> int:
    """Copy a string that `string` accepted without its escapes, answer the end of the copy, never longer."""
    while i < stop:
        if data[i] != 0x5C:
            out[at] = data[i]
            i += 1
            at += 1
            continue
        byte = data[i + 1]
        i += 2
        if byte == 0x75:
            point = _hex4(data, i, stop)
            i += 4
            if 0xD800 <= point <= 0xDFFF:
                low = _hex4(data, i + 2, stop) if point < 0xDC00 and i + 6 <= stop and data[i + 1] == 0x75 else -1
                if 0xDC00 <= low <= 0xDFFF and data[i] == 0x5C:
                    point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
                    i += 6
                else:
                    point = 0x3F  # the row is refused as INVALID_UNICODE
            at = _put_utf8(point, out, at)
            continue
        if byte == 0x62:
            byte = 0x08
        elif byte == 0x66:
            byte = 0x0C
        elif byte == 0x6E:
            byte = 0x0A
        elif byte == 0x72:
            byte = 0x0D
        elif byte == 0x74:
            byte = 0x09
        out[at] = byte
        at += 1
    return at


@part
def _overflows(data: U8, i: int, stop: int) -> bool:
    """Whether float64 rounds this number to infinity."""
    leading = 0  # digits before the point, from the first that is not 0; negative: zeros behind the point
    significant = 0
    compared = 0  # 1: above the limit's digits, -1: below
    point = False
    while i < stop and data[i] | 0x20 != 0x65:
        byte = int(data[i])
        if byte == 0x2E:
            point = True
        elif 0x30 <= byte <= 0x39:
            if significant or byte != 0x30:
                if compared == 0 and significant < _OVERFLOW.shape[0]:
                    limit = int(_OVERFLOW[significant])
                    compared = int(byte - 0x30 > limit) - int(byte - 0x30 < limit)
                significant += 1
            if point and significant == 0:
                leading -= 1
            elif not point and significant:
                leading += 1
        i += 1
    power = 0
    negative = i + 1 < stop and data[i + 1] == 0x2D
    while i < stop:
        if 0x30 <= data[i] <= 0x39:
            power = min(power * 10 + int(data[i]) - 0x30, 1_000_000)
        i += 1
    size = leading - power if negative else leading + power
    at_limit = size == 309 and (compared > 0 or (compared == 0 and significant >= _OVERFLOW.shape[0]))
    return significant > 0 and (size > 309 or at_limit)


@part
def _number(data: U8, i: int, stop: int) -> tuple[int, bool]:
    """Where the number ends (-1: not a JSON number), and whether it is finite."""
    start = i
    if data[i] == 0x2D:
        i += 1
    digits = i
    while i < stop and 0x30 <= data[i] <= 0x39:
        i += 1
    if i == digits or (data[digits] == 0x30 and i > digits + 1):
        return -1, True
    if i < stop and data[i] == 0x2E:
        i += 1
        digits = i
        while i < stop and 0x30 <= data[i] <= 0x39:
            i += 1
        if i == digits:
            return -1, True
    power = i < stop and data[i] | 0x20 == 0x65
    if power:
        i += 1
        if i < stop and (data[i] == 0x2B or data[i] == 0x2D):
            i += 1
        digits = i
        while i < stop and 0x30 <= data[i] <= 0x39:
            i += 1
        if i == digits:
            return -1, True
    return i, not ((power or i - start >= 309) and _overflows(data, start, i))


@part
def _is_word(data: U8, i: int, stop: int, word: bytes) -> bool:
    if i + len(word) > stop:
        return False
    for k in range(len(word)):  # noqa: SIM110 - numba compiles no all() of a generator
        if data[i + k] != word[k]:
            return False
    return True


@part
def _word(data: U8, i: int, stop: int) -> tuple[int, int, int]:
    """Where a literal ends (-1: none is here), its kind, its finding: NaN and Infinity are not garbage."""
    if _is_word(data, i, stop, b"true"):
        return i + 4, BOOLEAN, OK
    if _is_word(data, i, stop, b"false"):
        return i + 5, BOOLEAN, OK
    if _is_word(data, i, stop, b"null"):
        return i + 4, NULL, OK
    if _is_word(data, i, stop, b"NaN"):
        return i + 3, NUMBER, NUMBER_NOT_FINITE
    if _is_word(data, i, stop, b"Infinity"):
        return i + 8, NUMBER, NUMBER_NOT_FINITE
    if _is_word(data, i, stop, b"-Infinity"):
        return i + 9, NUMBER, NUMBER_NOT_FINITE
    return -1, ABSENT, OK


@part
def scalar(data: U8, i: int, stop: int) -> tuple[int, int, int]:
    """Where a string, number or literal ends (-1: none is here), its kind with what was seen, its finding."""
    byte = data[i]
    if byte == 0x22:
        end, seen, lone = string(data, i + 1, stop)
        return (end + 1 if end >= 0 else -1), STRING | seen, (INVALID_UNICODE if lone else OK)
    if 0x30 <= byte <= 0x39 or (byte == 0x2D and i + 1 < stop and data[i + 1] != 0x49):
        end, finite = _number(data, i, stop)
        return end, NUMBER, (OK if finite else NUMBER_NOT_FINITE)
    return _word(data, i, stop)


@part
def seen_in(data: U8, start: int, stop: int) -> int:
    """What the bytes of an unescaped string hold, as `string` says it of an escaped one."""
    seen = 0
    for i in range(start, stop):
        of = _CLASS[data[i]]
        seen |= of if of != _STOP else (CONTROL if data[i] < 0x20 else VISIBLE)
    return seen
