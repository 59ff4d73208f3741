import json
import struct
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from streaming import columns, numerals


def as_list(column: columns.Column) -> list[bytes | None]:
    return [
        None if length < 0 else bytes(column.data[start : start + length])
        for start, length in zip(column.starts, column.lengths, strict=True)
    ]


@given(st.lists(st.one_of(st.none(), st.text()), min_size=1))
def test_json_text_reads_back_as_the_same_text(values: list[str | None]) -> None:
    values = [None if v is None else v.encode("utf-8", "ignore").decode() for v in values]
    written = as_list(columns.json_text(columns.texts(pa.array(values, pa.string()))))
    assert [None if w is None else json.loads(b'"' + w + b'"') for w in written] == values


@given(st.lists(st.integers(0, 10**16), min_size=1))
def test_decimal_text_is_the_amount(units: list[int]) -> None:
    amounts = np.array(units) / 10_000
    # Of Python's floats: NumPy's own round is off by a unit where it multiplies and divides.
    for text, amount in zip(as_list(numerals.decimals(amounts, 4)), amounts.tolist(), strict=True):
        assert text is not None and float(text) == round(amount, 4)


@given(st.lists(st.integers(-2_208_988_800_000_000, 253_402_300_799_999_999), min_size=1))
def test_timestamps_are_rfc_3339(micros: list[int]) -> None:
    for text, value in zip(as_list(numerals.timestamps(np.array(micros))), micros, strict=True):
        assert text is not None
        moment = datetime.fromisoformat(text.decode())
        assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution == value


@given(st.lists(st.integers(0, 10**15), min_size=1))  # float64 carries 15 digits exactly
def test_numeric_groups_spell_the_amount(units: list[int]) -> None:
    for packed, unit in zip(as_list(numerals.numerics(np.array(units) / 10_000)), units, strict=True):
        assert packed is not None
        count, weight, sign, scale = struct.unpack(">4h", packed[:8])
        groups = struct.unpack(f">{count}h", packed[8:])
        value = sum(group * 10_000 ** (weight - position + 1) for position, group in enumerate(groups))
        assert (sign, scale) == (0, 4)
        assert value == unit


def test_the_largest_amounts_keep_their_decimals() -> None:
    assert as_list(numerals.decimals(np.array([999_999_999_999.9999]), 4)) == [b"999999999999.9999"]


FIELDS = st.lists(st.one_of(st.none(), st.binary(max_size=40)), min_size=3, max_size=3)
PARTS = st.lists(st.one_of(st.binary(max_size=20), st.tuples(FIELDS, st.booleans())), min_size=1, max_size=6)


@given(PARTS, st.permutations([0, 1, 2]))
def test_a_row_is_its_parts_side_by_side(
    parts: list[bytes | tuple[list[bytes | None], bool]], order: list[int]
) -> None:
    """A framed field has its length before it, -1 where it is null; any other null is nothing."""
    parts = [([b"a", b"", None], False), *parts]

    def part(row: int, of: bytes | tuple[list[bytes | None], bool]) -> bytes:
        if isinstance(of, bytes):
            return of
        fields, framed = of
        value = fields[row]
        size = struct.pack(">i", -1 if value is None else len(value)) if framed else b""
        return size + (value or b"")

    made = [
        p if isinstance(p, bytes) else replace(columns.texts(pa.array(p[0], pa.binary())), framed=p[1]) for p in parts
    ]
    body, ends = columns.join(made, np.array(order))
    rows = [b"".join(part(row, of) for of in parts) for row in order]
    assert body.tobytes() == b"".join(rows)
    assert ends.tolist() == np.cumsum([len(row) for row in rows]).tolist()


def test_a_null_can_say_something_else() -> None:
    assert as_list(columns.or_else(columns.texts(pa.array(["x", None, "yy"])), b"null")) == [b"x", b"null", b"yy"]


def test_sliced_arrow_columns_keep_their_own_rows() -> None:
    sliced = pa.array(["a", "bb", None, "dddd"])[1:]
    assert as_list(columns.texts(sliced)) == [b"bb", None, b"dddd"]
