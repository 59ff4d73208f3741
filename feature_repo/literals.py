"""Decimal numbers and RFC 3339 times, from their bytes to the nearest float64 and to microseconds.

Compiled by numba into whatever calls it; see `compiled.py` for what that asks of its callers.
"""

import numpy as np

from feature_repo.compiled import part
from feature_repo.json_tokens import OK
from feature_repo.words import U8

# Findings, behind those of json_tokens.
AMOUNT_RANGE, COORDINATE_RANGE, PRECISION = range(20, 23)
TIME_FORMAT, TIME_NO_ZONE, TIME_INVALID = range(23, 26)

_EXACT = 1 << 53  # whole numbers up to here are exact in float64, and so is 10**22:
_POWERS = np.array([10.0**power for power in range(23)])  # one product or quotient of two such rounds correctly
# Minutes since 1970 of the years 1 to 9999, those a Python date can name.
_FIRST_MINUTE, _LAST_MINUTE = -719_162 * 1440, 2_932_897 * 1440


@part
def _decimal(data: U8, i: int, stop: int) -> tuple[bool, int, int, int]:
    """A JSON number as sign, digits without zeros at their ends, power of ten, count of the digits.

    More than 18 digits are counted but not held.
    """
    negative = data[i] == 0x2D
    mantissa = power = count = zeros = 0
    fraction = False
    while i < stop and data[i] | 0x20 != 0x65:
        digit = int(data[i]) - 0x30
        i += 1
        if not 0 <= digit <= 9:
            fraction |= digit == 0x2E - 0x30
            continue
        power -= fraction
        if digit == 0:
            zeros += count > 0
            continue
        count += zeros + 1
        if count <= 18:
            for _ in range(zeros):
                mantissa *= 10
            mantissa = mantissa * 10 + digit
        zeros = 0
    shift = 0
    down = i + 1 < stop and data[i + 1] == 0x2D
    while i < stop:
        digit = int(data[i]) - 0x30
        if 0 <= digit <= 9:
            shift = min(shift * 10 + digit, 1_000_000)
        i += 1
    return negative, mantissa, power + zeros + (-shift if down else shift), count


@part
def amount(data: U8, start: int, stop: int, max_power: int, decimals: int) -> tuple[int, float, bool]:
    """Finding, value, and whether the value is left to the parser."""
    negative, mantissa, power, count = _decimal(data, start, stop)
    whole = count + power  # digits before the point
    limit = max_power + 1
    if negative or count == 0 or whole > limit or (whole == limit and (count > 1 or mantissa > 1)):
        return AMOUNT_RANGE, 0.0, False
    if power < -decimals:
        return PRECISION, 0.0, False
    if mantissa > _EXACT:
        return OK, 0.0, True
    return OK, (mantissa * _POWERS[power] if power >= 0 else mantissa / _POWERS[-power]), False


@part
def coordinate(data: U8, start: int, stop: int, limit: float) -> tuple[int, float, bool]:
    negative, mantissa, power, count = _decimal(data, start, stop)
    if count == 0:
        return OK, 0.0, False
    if count > 18 or mantissa > _EXACT or power < -22:
        return OK, 0.0, True
    if count + power > 3:
        return COORDINATE_RANGE, 0.0, False
    value = mantissa * _POWERS[power] if power >= 0 else mantissa / _POWERS[-power]
    value = -value if negative else value
    return (OK if -limit <= value <= limit else COORDINATE_RANGE), value, False


@part
def _digits(data: U8, i: int, count: int) -> int:
    """The number in exactly so many digits, far below 0 where one is none."""
    value = 0
    for k in range(i, i + count):
        digit = int(data[k]) - 0x30
        value = value * 10 + digit if 0 <= digit <= 9 else -1_000_000_000
    return value


@part
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 (Hinnant, chrono-compatible low-level date algorithms)."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@part
def _starts_month(days: int) -> bool:
    """Whether the day is the first of a month (Hinnant, `civil_from_days`)."""
    days += 719_468
    of_era = days - days // 146_097 * 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return of_year == (153 * month + 2) // 5


@part
def _zone(data: U8, i: int, stop: int) -> tuple[int, int]:
    """Finding and minutes ahead of UTC."""
    if i == stop:
        return TIME_NO_ZONE, 0
    if data[i] | 0x20 == 0x7A:
        return (OK if i + 1 == stop else TIME_FORMAT), 0
    if i + 6 != stop or (data[i] != 0x2B and data[i] != 0x2D) or data[i + 3] != 0x3A:
        return TIME_FORMAT, 0
    hours, minutes = _digits(data, i + 1, 2), _digits(data, i + 4, 2)
    if hours < 0 or minutes < 0:
        return TIME_FORMAT, 0
    ahead = hours * 60 + minutes
    return (OK if hours < 24 and minutes < 60 else TIME_INVALID), (ahead if data[i] == 0x2B else -ahead)


@part
def _fraction(data: U8, i: int, stop: int) -> tuple[int, int]:
    """Where a fraction of a second ends (-1: not 1 to 9 digits), and its microseconds, cut and not rounded."""
    if i == stop or data[i] != 0x2E:
        return i, 0
    i += 1
    first, micros, unit = i, 0, 100_000
    while i < stop and 0x30 <= data[i] <= 0x39:
        micros += unit * (int(data[i]) - 0x30)
        unit //= 10
        i += 1
    return (i if 1 <= i - first <= 9 else -1), micros


@part
def time(data: U8, i: int, stop: int) -> tuple[int, int]:
    """Finding and microseconds since 1970 of an RFC 3339 date-time.

    Second 60 exists at the end of a month in UTC only, and is the first second of the next, as in POSIX.
    """
    if stop - i < 19:
        return TIME_FORMAT, 0
    year, month, day = _digits(data, i, 4), _digits(data, i + 5, 2), _digits(data, i + 8, 2)
    hour, minute, second = _digits(data, i + 11, 2), _digits(data, i + 14, 2), _digits(data, i + 17, 2)
    marked = data[i + 4] == 0x2D and data[i + 7] == 0x2D and data[i + 10] | 0x20 == 0x74
    marked = marked and data[i + 13] == 0x3A and data[i + 16] == 0x3A
    if not marked or min(year, month, day) < 0 or min(hour, minute, second) < 0:
        return TIME_FORMAT, 0
    i, micros = _fraction(data, i + 19, stop)
    if i < 0:
        return TIME_FORMAT, 0
    finding, ahead = _zone(data, i, stop)
    if finding != OK:
        return finding, 0
    if not (1 <= month <= 12 and day >= 1 and hour < 24 and minute < 60 and second <= 60):
        return TIME_INVALID, 0
    days = _days(year, month, day)
    if days >= (_days(year, month + 1, 1) if month < 12 else _days(year + 1, 1, 1)):
        return TIME_INVALID, 0
    minutes = days * 1440 + hour * 60 + minute - ahead
    if second == 60 and not ((minutes + 1) % 1440 == 0 and _starts_month((minutes + 1) // 1440)):
        return TIME_INVALID, 0
    if not _FIRST_MINUTE <= minutes < _LAST_MINUTE:
        return TIME_INVALID, 0
    return OK, (minutes * 60 + second) * 1_000_000 + micros
