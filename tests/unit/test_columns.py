import json
import struct
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from streaming import columns


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
    for text, amount in zip(as_list(columns.decimals(amounts, 4)), amounts, strict=True):
        assert text is not None and float(text) == round(amount, 4)


@given(st.lists(st.integers(-2_208_988_800_000_000, 253_402_300_799_999_999), min_size=1))
def test_timestamps_are_rfc_3339(micros: list[int]) -> None:
    for text, value in zip(as_list(columns.timestamps(np.array(micros))), micros, strict=True):
        assert text is not None
        moment = datetime.fromisoformat(text.decode())
        assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution == value


@given(st.lists(st.integers(0, 10**15), min_size=1))  # float64 carries 15 digits exactly
def test_numeric_groups_spell_the_amount(units: list[int]) -> None:
    for packed, unit in zip(as_list(columns.numerics(np.array(units) / 10_000)), units, strict=True):
        assert packed is not None
        count, weight, sign, scale = struct.unpack(">4h", packed[:8])
        groups = struct.unpack(f">{count}h", packed[8:])
        value = sum(group * 10_000 ** (weight - position + 1) for position, group in enumerate(groups))
        assert (sign, scale) == (0, 4)
        assert value == unit


def test_the_largest_amounts_keep_their_decimals() -> None:
    assert as_list(columns.decimals(np.array([999_999_999_999.9999]), 4)) == [b"999999999999.9999"]


def test_a_joined_row_frames_every_field_and_marks_nulls() -> None:
    body, ends = columns.join(
        [columns.texts(pa.array(["x", None])), columns.coded([b"A", None], np.array([1, 0]))], framed=True
    )
    assert bytes(body) == b"\0\2\0\0\0\1x\xff\xff\xff\xff\0\2\xff\xff\xff\xff\0\0\0\1A"
    assert ends.tolist() == [11, 22]


def test_sliced_arrow_columns_keep_their_own_rows() -> None:
    sliced = pa.array(["a", "bb", None, "dddd"])[1:]
    assert as_list(columns.texts(sliced)) == [b"bb", None, b"dddd"]
