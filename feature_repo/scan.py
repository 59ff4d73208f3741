"""JSON structure, strictly: one pass over raw bytes finds where a payment's fields lie.

Findings after which nothing more can be read (`NOT_JSON`, `TOO_DEEP`, `TOO_MANY_KEYS`) win; of the others the
first one in the document counts, and the scan goes on behind it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from feature_repo import json_tokens, words
from feature_repo.compiled import entry, inlined, part, source_stamp
from feature_repo.json_tokens import (
    ABSENT,
    DUPLICATE_KEY,
    EMPTY,
    ESCAPED,
    INVALID_UNICODE,
    KIND,
    NESTED,
    NOT_JSON,
    NOT_OBJECT,
    NOT_UTF8,
    NULL,
    NUMBER,
    OK,
    SECRET_FIELD,
    STRING,
    TOMBSTONE,
    TOO_DEEP,
    TOO_LARGE,
    TOO_MANY_KEYS,
    scalar,
    seen_in,
    string,
    unescape,
)
from feature_repo.words import U8, is_utf8

I32 = npt.NDArray[Any]
I64 = npt.NDArray[Any]
U64 = npt.NDArray[Any]

NOWHERE = -1  # no field of the contract
_AFTER, _VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END = range(5)  # what may come next
_HELD, _ARENA = range(2)  # counters in Keys.used
_SPACE_BITS = 1 << 0x20 | 1 << 0x0D | 1 << 0x0A | 1 << 0x09  # JSON's white space
_FNV_BASIS = np.uint64(0xCBF29CE484222325)  # FNV-1a (Fowler, Noll, Vo 1991)
_FNV_PRIME = np.uint64(0x100000001B3)


class Names(NamedTuple):
    """The contract's fields, found by a hash of size, first and last byte; made by `batch`."""

    slots: npt.NDArray[np.int8]  # field number by hash, NOWHERE if none
    salt: int
    text: U8  # [fields, longest name]
    size: I64
    secrets: U64  # `folded_hash_of` of names of fields that must never be sent


class Tokens(NamedTuple):
    """Where each field of each row lies; [fields, rows]. Strings are without their quotes.

    A start below 0 counts in the side buffer, which holds unescaped strings: -1 is its byte 0.
    """

    start: I32
    size: I32
    kind: U8


class Side(NamedTuple):
    """Text that does not lie in the messages as it is."""

    text: U8
    used: I64  # [1], bytes of text in use


class Limits(NamedTuple):
    bytes: int
    depth: int
    keys: int


class Findings(NamedTuple):
    """What was found in each row: `OK`, or the reason it is refused."""

    number: U8
    field: npt.NDArray[np.int8]  # the contract's field to blame, NOWHERE if none
    at: I32  # byte of the row
    extra: I32  # fields outside the contract


class Keys(NamedTuple):
    """The keys of the objects that are open, outermost first, without those of the contract."""

    start: I32
    size: I32
    hash: U64
    arena: U8  # their unescaped bytes
    first: I32  # by depth: how many keys were held when the object opened
    used: I64


@inlined
def _after_space(data: U8, i: int, stop: int) -> int:
    while i < stop and data[i] <= 0x20 and (_SPACE_BITS >> data[i]) & 1:
        i += 1
    return i


@part
def _folded_hash(data: U8, start: int, stop: int) -> int:
    """FNV-1a of the letters and digits, capitals as small: `card_CVV` and `cardCvv` are one name."""
    hashed: Any = _FNV_BASIS
    for i in range(start, stop):
        byte = data[i]
        if 0x41 <= byte <= 0x5A:
            byte |= 0x20
        if 0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39:
            hashed = (hashed ^ np.uint64(byte)) * _FNV_PRIME
    return hashed


def folded_hash_of(name: str) -> int:
    """What `_folded_hash` answers for a name in small letters and digits, without compiling anything."""
    hashed = int(_FNV_BASIS)
    for byte in name.encode():
        hashed = (hashed ^ byte) * int(_FNV_PRIME) % 2**64
    return hashed


@part
def _field(data: U8, start: int, stop: int, names: Names) -> int:
    """Number of the contract's field of this name, NOWHERE if there is none."""
    size = stop - start
    if size == 0 or size > names.text.shape[1]:
        return NOWHERE
    slot = (size + names.salt * data[start] + data[stop - 1]) & (names.slots.shape[0] - 1)
    field = int(names.slots[slot])
    if field < 0 or names.size[field] != size:
        return NOWHERE
    for k in range(size):
        if data[start + k] != names.text[field, k]:
            return NOWHERE
    return field


@inlined
def _hold(data: U8, start: int, stop: int, escaped: bool, depth: int, names: Names, keys: Keys) -> int:
    """Remember a key that is no field of the contract; finds it a second time, or a name never to be sent."""
    at = keys.used[_ARENA]
    if escaped:
        end = unescape(data, start, stop, keys.arena, at)
    else:
        end = at + stop - start
        for k in range(stop - start):  # a slice assignment costs seconds of compilation
            keys.arena[at + k] = data[start + k]
    folded = _folded_hash(keys.arena, at, end)
    held = keys.used[_HELD]
    keys.start[held], keys.size[held], keys.hash[held] = at, end - at, folded
    keys.used[_HELD], keys.used[_ARENA] = held + 1, end
    for other in range(keys.first[depth], held):
        if keys.hash[other] == folded and keys.size[other] == end - at:
            begin = keys.start[other]
            same = True
            for k in range(end - at):
                same &= keys.arena[begin + k] == keys.arena[at + k]
            if same:
                return DUPLICATE_KEY
    for secret in names.secrets:
        if folded == secret:
            return SECRET_FIELD
    return OK


@inlined
def _key(
    data: U8, i: int, stop: int, depth: int, row: int, names: Names, tokens: Tokens, keys: Keys
) -> tuple[int, int, int]:
    """From a key's opening quote: where its value may start (-1: no key and colon here), field, finding."""
    end, seen, lone = string(data, i + 1, stop)
    if end < 0:
        return -1, NOWHERE, OK
    start = i + 1
    i = end + 1
    i = _after_space(data, i, stop)
    if i >= stop or data[i] != 0x3A:
        return -1, NOWHERE, OK
    escaped = seen & ESCAPED != 0
    field = NOWHERE
    if depth == 1:
        if escaped:
            at = keys.used[_ARENA]
            field = _field(keys.arena, at, unescape(data, start, end, keys.arena, at), names)
        else:
            field = _field(data, start, end, names)
    if field >= 0:
        finding = DUPLICATE_KEY if tokens.kind[field, row] != ABSENT else OK
    else:
        finding = _hold(data, start, end, escaped, depth, names, keys)
    return i + 1, field, (INVALID_UNICODE if lone else finding)


@inlined
def _place(data: U8, start: int, stop: int, kind: int, field: int, row: int, tokens: Tokens, side: Side) -> None:
    """Note where a field's value lies; an escaped string is unescaped into the side buffer."""
    if kind & KIND == STRING:
        start += 1
        stop -= 1
    size = stop - start
    if kind & ESCAPED:
        at = side.used[0]
        end = unescape(data, start, stop, side.text, at)
        kind = STRING | seen_in(side.text, at, end)
        start, size = -1 - at, end - at
        side.used[0] = end
    tokens.start[field, row] = start
    tokens.size[field, row] = size
    tokens.kind[field, row] = kind


@inlined
def _verdict(root: int, complete: bool, kept: int) -> int:
    """The finding once the bytes are used up."""
    if root == ABSENT:
        return EMPTY
    if not complete:
        return NOT_JSON
    if root == NULL:
        return EMPTY
    return kept if root == NESTED else NOT_OBJECT


@inlined
def _document(
    data: U8, i: int, stop: int, row: int, names: Names, limits: Limits, tokens: Tokens, keys: Keys, side: Side
) -> tuple[int, int, int, int]:
    """One message: finding, field to blame, byte where it was found, fields outside the contract."""
    # Of one type from the start: numba would compile what they are passed to once more for a literal.
    nothing: Any = np.int64(0)
    depth, field, root, kept = nothing, nothing + NOWHERE, nothing + ABSENT, nothing + OK
    objects = count = extra = 0  # objects: bit d is set where the container at depth d is an object
    expected, blamed, kept_at = _VALUE, NOWHERE, i
    keys.used[_HELD] = keys.used[_ARENA] = 0
    while True:
        i = _after_space(data, i, stop)
        if i >= stop:
            return _verdict(root, depth == 0 and expected == _AFTER, kept), blamed, kept_at, extra
        byte, at, finding = data[i], i, OK
        if expected == _AFTER and byte == 0x2C and depth > 0:
            expected = _KEY if (objects >> depth) & 1 else _VALUE
            i += 1
        elif expected >= _KEY and byte == 0x22:
            count += 1
            if count > limits.keys:
                return TOO_MANY_KEYS, NOWHERE, at, extra
            i, field, finding = _key(data, i, stop, depth, row, names, tokens, keys)
            extra += depth == 1 and field < 0
            expected = _VALUE
        elif expected == _VALUE or (expected == _VALUE_OR_END and byte != 0x5D):
            kind = NESTED
            if byte | 0x20 != 0x7B:
                i, kind, finding = scalar(data, i, stop)
                expected = _AFTER
            elif depth == limits.depth:
                return TOO_DEEP, NOWHERE, at, extra
            if i >= 0 and depth == 1 and field >= 0:
                _place(data, at, i, kind, field, row, tokens, side)
            if depth == 0:
                root = NUMBER if byte == 0x5B else kind & KIND
            if kind == NESTED:
                i += 1
                depth += 1
                objects = (objects & ~(1 << depth)) | ((byte == 0x7B) << depth)
                keys.first[depth] = keys.used[_HELD]
                expected = _KEY_OR_END if byte == 0x7B else _VALUE_OR_END
        elif expected != _KEY and depth > 0 and byte == (0x7D if (objects >> depth) & 1 else 0x5D):
            keys.used[_HELD] = keys.first[depth]
            depth -= 1
            expected = _AFTER
            i += 1
        else:
            i = -1
        if i < 0:
            return NOT_JSON, NOWHERE, at, extra
        if finding != OK and kept == OK:
            kept, blamed, kept_at = finding, field, at


def _compiled_scan(stamp: str) -> Callable[..., None]:
    @entry
    def scan_rows(
        data: U8,
        offsets: I64,
        present: U8,
        names: Names,
        limits: Limits,
        tokens: Tokens,
        keys: Keys,
        side: Side,
        findings: Findings,
    ) -> None:
        stamp  # noqa: B018 - makes it part of the closure, see compiled.py
        for row in range(present.shape[0]):
            start, stop = offsets[row], offsets[row + 1]
            for field in range(tokens.kind.shape[0]):
                tokens.kind[field, row] = ABSENT
            finding, blamed, at, extra = OK, NOWHERE, start, 0
            if not present[row]:
                finding = TOMBSTONE
            elif stop == start:
                finding = EMPTY
            elif stop - start > limits.bytes:
                finding = TOO_LARGE
            elif not is_utf8(data, start, stop):
                finding = NOT_UTF8
            else:
                finding, blamed, at, extra = _document(data, start, stop, row, names, limits, tokens, keys, side)
            findings.number[row], findings.field[row] = finding, blamed
            findings.at[row], findings.extra[row] = at - start, extra

    return scan_rows


@cache
def scan_rows() -> Callable[..., None]:
    """The compiled pass over all rows of a batch.

    (data, offsets[rows + 1], present, names, limits, tokens, keys, side, findings): reads the first five,
    writes the others.
    """
    return _compiled_scan(source_stamp(json_tokens, words))
