"""Columns to JSON: what is read back is what was written."""

import json
import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.parser import parse
from feature_repo.transaction import SCHEMA
from pipelines.messages import encode
from pipelines.simulator import days, world

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def test_every_simulated_payment_is_accepted_and_read_back_unchanged() -> None:
    made = world.build(world.Options(users=2_000, seed=4))
    payments = pa.Table.from_batches([days.history(made, day) for day in days.stream(made, 0, 5)])
    batch = payments.select(SCHEMA.names).combine_chunks().to_batches()[0]
    now = payments["arrival_time"].cast(pa.int64()).to_numpy()
    parsed = parse(encode(batch), now)
    assert parsed.rejects.codes == []
    assert parsed.extra_fields == 0
    assert parsed.payments.equals(batch.cast(SCHEMA))


@given(st.lists(st.tuples(_TEXT, _TEXT, st.none() | _TEXT), min_size=1, max_size=20))
def test_any_text_comes_back(rows: list[tuple[str, str, str | None]]) -> None:
    columns = {
        "transaction_id": pa.array([row[0] for row in rows], pa.string()),
        "merchant": pa.array([row[1] for row in rows], pa.string()),
        "device_id": pa.array([row[2] for row in rows], pa.string()),
    }
    for row, message in zip(rows, encode(columns).to_pylist(), strict=True):
        document = json.loads(message)
        assert document.pop("transaction_id") == row[0]
        assert document.pop("merchant") == row[1]
        assert document.pop("device_id", None) == row[2]
        assert not document


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_any_number_comes_back(amounts: list[float]) -> None:
    messages = encode({"amount": pa.array(amounts, pa.float64())}).to_pylist()
    assert [json.loads(message)["amount"] for message in messages] == amounts


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_cents_are_written_with_two_decimals(cents: list[int]) -> None:
    messages = encode({"amount": pa.array(np.array(cents) / 100)}).to_pylist()
    assert messages == [f'{{"amount":{number // 100}.{number % 100:02d}}}'.encode() for number in cents]


def test_what_is_no_number_or_no_value_is_left_for_the_parser_to_name() -> None:
    columns = {
        "transaction_id": pa.array([None, "b", "c", "d"]),
        "amount": pa.array(["1.5", "abc", None, "1e5"]),
        "latitude": pa.array([math.nan, math.inf, None, 1.0]),
    }
    assert encode(columns).to_pylist() == [
        b'{"amount":1.5,"latitude":NaN}',
        b'{"transaction_id":"b","amount":"abc","latitude":Infinity}',
        b'{"transaction_id":"c"}',
        b'{"transaction_id":"d","amount":1e5,"latitude":1.0}',
    ]


def test_times_are_utc_with_microseconds() -> None:
    times = pa.array([0, 1_735_689_600_000_001], pa.timestamp("us", tz="Europe/Berlin"))
    assert encode({"event_time": times}).to_pylist() == [
        b'{"timestamp":"1970-01-01T00:00:00.000000Z"}',
        b'{"timestamp":"2025-01-01T00:00:00.000001Z"}',
    ]
