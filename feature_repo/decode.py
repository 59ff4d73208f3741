"""Values of a payment's fields: the tokens that `scan` placed, checked and turned into numbers and text.

The fields are worked off in the contract's order; the first that is wrong names the row's finding. What
compiled code cannot decide (normal forms outside the common letters, digits and dashes of other scripts,
numbers that need more than 53 bits) is left to the parser: bit `field` of `slow[row]` is set.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from feature_repo import json_tokens, literals, scan, words
from feature_repo.compiled import entry, inlined, part, source_stamp
from feature_repo.json_tokens import (
    ABSENT,
    CONTROL,
    DIGIT,
    KIND,
    NON_ASCII,
    NULL,
    NUMBER,
    OK,
    STRING,
    VISIBLE,
)
from feature_repo.literals import TIME_FORMAT, amount, coordinate, time
from feature_repo.scan import I64, NOWHERE, Findings, Tokens
from feature_repo.words import U8

# What a field of the contract holds.
AMOUNT, LATITUDE, LONGITUDE, TIME, CURRENCY, ID, TEXT = range(7)  # the numbers first

# Findings, behind those of json_tokens and literals.
FIELD_MISSING, WRONG_TYPE, ID_FORMAT, TEXT_FORMAT, CURRENCY_FORMAT, TIME_FUTURE, PAN_DETECTED = range(30, 37)


# No character of a text in its normal form took more as it was sent; text beyond is not worth a closer look.
_BYTES_PER_CHARACTER = 16


class Rules(NamedTuple):
    """The contract as numbers."""

    roles: I64  # by field: ID, TEXT, ...
    required: int  # the first so many fields must be there
    id_characters: int
    text_characters: int
    amount_power: int  # amounts reach up to 10 to this power
    decimals: int
    future_us: int
    pan_in_ids: bool


class Values(NamedTuple):
    """The numbers of the rows; coordinates are NaN where none are given."""

    amount: npt.NDArray[Any]
    time: I64  # microseconds since 1970, UTC
    latitude: npt.NDArray[Any]
    longitude: npt.NDArray[Any]
    slow: npt.NDArray[Any]  # uint32 per row: fields left to the parser


@part
def _is_luhn(digits: U8, first: int, stop: int) -> bool:
    total = 0
    for k in range(first, stop):
        digit = int(digits[k] & 0x0F)
        if (stop - k) & 1 == 0:
            digit += digit - 9 if digit > 4 else digit
        total += digit
    return total % 10 == 0


@part
def has_card_number(data: U8, start: int, stop: int, digits: U8) -> bool:
    """Whether 13 to 19 digits pass Luhn's check: whole groups of digits, spaces and dashes between them.

    `digits` is room for as many bytes. The digits and dashes of other scripts are the parser's.
    """
    count: Any = np.int64(0)  # digits of this run; the one that begins a group has its high bit set
    inside = False
    for i in range(start, stop + 1):
        byte = int(data[i]) if i < stop else 0
        if 0x30 <= byte <= 0x39:
            digits[count] = byte & 0x0F if inside else byte & 0x0F | 0x80
            count += 1
            inside = True
            continue
        if inside:  # a group has ended: is it the end of a card number that begins where a group does?
            for first in range(max(count - 19, 0), count - 12):
                if digits[first] & 0x80 and _is_luhn(digits, first, count):
                    return True
        inside = False
        if byte != 0x20 and byte != 0x2D:
            count = 0
    return False


@part
def _characters(data: U8, start: int, stop: int, plain: U8) -> int:
    """Number of characters, -1 where one is not `plain`: then normal form and kind are the parser's to judge."""
    i = start
    count = 0
    while i < stop:
        byte = int(data[i])
        count += 1
        if byte < 0x80:
            i += 1
        elif byte < 0xE0:
            if not plain[(byte & 0x1F) << 6 | data[i + 1] & 0x3F]:
                return -1
            i += 2
        elif byte < 0xF0:
            if not plain[(byte & 0x0F) << 12 | (data[i + 1] & 0x3F) << 6 | data[i + 2] & 0x3F]:
                return -1
            i += 3
        else:
            return -1
    return count


@part
def _text(
    data: U8, start: int, size: int, kind: int, limit: int, wrong: int, seek_card: bool, plain: U8, digits: U8
) -> tuple[int, bool]:
    """Finding of an identifier or text, `wrong` where its form is; and whether it is left to the parser."""
    if size == 0 or size > _BYTES_PER_CHARACTER * limit or kind & CONTROL:
        return wrong, False
    characters = size
    if kind & NON_ASCII:
        characters = _characters(data, start, start + size, plain)
        if characters < 0:
            return OK, True
    if characters > limit or not kind & VISIBLE:
        return wrong, False
    if seek_card and kind & DIGIT and size >= 13 and has_card_number(data, start, start + size, digits):
        return PAN_DETECTED, False
    return OK, False


@inlined
def _value(
    data: U8,
    start: int,
    size: int,
    kind: int,
    role: int,
    row: int,
    latest: int,
    rules: Rules,
    plain: U8,
    digits: U8,
    values: Values,
) -> tuple[int, bool]:
    """Check and write one field; its finding, and whether it is left to the parser."""
    number = role <= LONGITUDE
    if role == TIME and kind & KIND == NUMBER:
        return TIME_FORMAT, False  # an epoch; of what unit nobody can tell
    if kind & KIND != (NUMBER if number else STRING):
        return WRONG_TYPE, False
    if role >= ID:
        limit, wrong = (rules.id_characters, ID_FORMAT) if role == ID else (rules.text_characters, TEXT_FORMAT)
        seek_card = role == TEXT or rules.pan_in_ids
        return _text(data, start, size, kind, limit, wrong, seek_card, plain, digits)
    if role == TIME:
        finding, values.time[row] = time(data, start, start + size)
        return (TIME_FUTURE if finding == OK and values.time[row] > latest else finding), False
    if role == AMOUNT:
        finding, values.amount[row], later = amount(data, start, start + size, rules.amount_power, rules.decimals)
        return finding, later
    if role == CURRENCY:
        capitals = size == 3
        for i in range(start, start + size):
            capitals = capitals and 0x41 <= data[i] <= 0x5A
        return (OK if capitals else CURRENCY_FORMAT), False
    of = values.latitude if role == LATITUDE else values.longitude
    finding, of[row], later = coordinate(data, start, start + size, 90.0 if role == LATITUDE else 180.0)
    return finding, later


@inlined
def _row(
    data: U8, side: U8, row: int, latest: int, rules: Rules, plain: U8, digits: U8, tokens: Tokens, values: Values
) -> tuple[int, int]:
    """Finding of a row and the field to blame."""
    values.latitude[row] = values.longitude[row] = np.nan
    values.slow[row] = 0
    located, other = 0, NOWHERE
    for field in range(rules.roles.shape[0]):
        role, kind = rules.roles[field], int(tokens.kind[field, row])
        half = LATITUDE <= role <= LONGITUDE
        if kind & KIND == ABSENT or kind & KIND == NULL:
            if field < rules.required:
                return FIELD_MISSING, field
            tokens.kind[field, row] = ABSENT
            other = field if half else other
            continue
        located += half
        start = int(tokens.start[field, row])
        source = side if start < 0 else data
        start = -1 - start if start < 0 else start
        finding, later = _value(
            source, start, tokens.size[field, row], kind, role, row, latest, rules, plain, digits, values
        )
        if finding != OK:
            return finding, field
        if later:
            values.slow[row] |= 1 << field
    return (FIELD_MISSING, other) if located == 1 else (OK, NOWHERE)


def _compiled_decode(stamp: str) -> Callable[..., None]:
    @entry
    def decode_rows(
        data: U8,
        side: U8,
        broker_us: I64,
        rules: Rules,
        plain: U8,
        digits: U8,
        tokens: Tokens,
        values: Values,
        findings: Findings,
    ) -> None:
        stamp  # noqa: B018 - makes it part of the closure, see compiled.py
        for row in range(broker_us.shape[0]):
            if findings.number[row] == OK:
                latest = broker_us[row] + rules.future_us
                findings.number[row], findings.field[row] = _row(
                    data, side, row, latest, rules, plain, digits, tokens, values
                )

    return decode_rows


@cache
def decode_rows() -> Callable[..., None]:
    """The compiled pass over all rows that scanned well.

    (data, side, broker_us, rules, plain, digits, tokens, values, findings): reads the first five, writes the
    others. `plain[c]` says that character c below U+10000 is its own normal form and nothing special;
    `digits` is room for the longest text.
    """
    return _compiled_decode(source_stamp(json_tokens, literals, scan, words))
