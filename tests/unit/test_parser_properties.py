import json
import math
import random
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from feature_repo.parser import Parsed, parse
from feature_repo.redaction import holds_card_number
from tests.cases.bad_inputs import BROKER_TIME_US, CASES, SAMPLE, payment, raw
from tests.unit.payment_oracle import Refused, read

SEEDED = settings(max_examples=8, deadline=None, phases=(Phase.reuse, Phase.generate))  # a seed does not shrink
LATEST_US = BROKER_TIME_US + 300_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What JSON, numbers, times and card numbers are made of, to be put together in all wrong ways.
SHREDS = [
    *(bytes([byte]) for byte in b'{}[]:,"\\/ \t\n\r\0-+.eEuTtZz0123456789\x7f\x80\xc3\xa9\xe2\xff'),
    b"true", b"null", b"NaN", b"-Infinity", b"1e400", b"1e-7", b"0.00010", b"00", b"-0", b'""', b'"a":', b'"amount":',
    b'"cvv":1', b"\\u0000", b"\\u00e9", b"\\ud83c\\udf55", b"\\ud83c",
    b"\xf0\x9f\x8d\x95", b"e\xcc\x81", b"\xed\xa0\x80",
    b"4111 1111 1111 1111", b"4222222222222", b"2023-02-29", b":60Z", b"+02:00", b"\xe2\x80\x93", b"\xef\xbc\x91",
]  # fmt: skip


def parse_all(messages: list[bytes]) -> Parsed:
    return parse(pa.array(messages, pa.binary()), np.full(len(messages), BROKER_TIME_US))


def assert_agrees_with_oracle(messages: list[bytes]) -> None:
    """Accepted by both with the same columns, or refused by both."""
    parsed = parse_all(messages)
    parsed.payments.validate(full=True)
    accepted = dict(zip(parsed.rows.tolist(), parsed.payments.to_pylist(), strict=True))
    for row, message in enumerate(messages):
        try:
            expected = read(message, LATEST_US)
        except Refused:
            assert row not in accepted, message
        else:
            assert accepted.get(row) == expected, message


def mutants(seed: int, count: int) -> list[bytes]:
    """Messages of the table, cut, flipped, spliced and filled with shreds in one to three places."""
    choose = random.Random(seed)
    origins = [case.payload for case in CASES if case.payload and len(case.payload) < 1_000]
    made = []
    for _ in range(count):
        message = bytearray(choose.choice(origins))
        for _ in range(choose.randint(1, 3)):
            at = choose.randrange(len(message) + 1)
            match choose.randrange(5):
                case 0:
                    del message[at:]
                case 1 if at < len(message):
                    message[at] ^= 1 << choose.randrange(8)
                case 2:
                    message[at:at] = choose.choice(SHREDS)
                case 3:
                    del message[at : at + choose.randint(1, 12)]
                case _:
                    other = choose.choice(origins)
                    begin = choose.randrange(len(other))
                    message[at:at] = other[begin : begin + choose.randint(1, 60)]
        made.append(bytes(message))
    return made


@settings(SEEDED)
@given(st.integers(0, 2**32))
def test_mutated_messages_are_accepted_only_as_python_reads_them(seed: int) -> None:
    assert_agrees_with_oracle(mutants(seed, 1_500))


@settings(SEEDED)
@given(st.integers(0, 2**32))
def test_fields_of_shreds_are_accepted_only_as_python_reads_them(seed: int) -> None:
    choose = random.Random(seed)

    def literal() -> str:
        shreds = b"".join(choose.choices(SHREDS, k=choose.randint(1, 5))).decode("utf-8", "ignore")
        return f'"{shreds}"' if choose.random() < 0.6 else shreds

    messages = [raw(choose.choice([*SAMPLE, "latitude", "channel", "currency"]), literal()) for _ in range(1_500)]
    assert_agrees_with_oracle(messages)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.lists(st.sampled_from(SHREDS), max_size=12).map(b"".join), max_size=20))
def test_no_bytes_crash_the_parser_or_disturb_a_neighbour(messages: list[bytes]) -> None:
    parsed = parse_all([payment(), *messages, payment()])
    assert {0, len(messages) + 1} <= set(parsed.rows.tolist())
    assert len(parsed.rows) + len(parsed.rejects.rows) == len(messages) + 2
    assert_agrees_with_oracle(messages)


text = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
visible = text.filter(lambda value: any(unicodedata.category(character)[0] not in "ZC" for character in value))
free_text = visible.filter(lambda value: not holds_card_number(unicodedata.normalize("NFC", value)))
amounts = st.decimals(min_value=Decimal("0.0001"), max_value=Decimal(10**12), places=4)
moments = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(2023, 7, 15), timezones=st.just(UTC))
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@st.composite
def payments(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A message a producer could send, and the columns it stands for."""
    ids = {name: draw(visible) for name in ("transaction_id", "user_id")}
    texts = {name: draw(free_text) for name in ("merchant", "location", "payment_method")}
    optional = {name: draw(st.none() | free_text) for name in ("merchant_category", "channel")}
    place = draw(st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)))
    amount, moment = draw(amounts), draw(moments)
    numbers = dict(zip(("latitude", "longitude"), place or (None, None), strict=True))
    device = draw(st.none() | visible)
    currency = draw(st.none() | st.from_regex("[A-Z]{3}", fullmatch=True))
    said = {**ids, **texts, **optional, **numbers, "device_id": device, "currency": currency}
    said["timestamp"] = (
        moment.astimezone(draw(zones)).isoformat().replace("+00:00", draw(st.sampled_from(("Z", "+00:00"))))
    )
    said = {name: value for name, value in said.items() if value is not None or draw(st.booleans())}
    fields = [
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=draw(st.booleans()))}" for name, value in said.items()
    ]
    fields.append(f'"amount": {draw(st.sampled_from(("{:f}", "{:E}", "{}"))).format(amount)}')
    columns = {name: unicodedata.normalize("NFC", value) for name, value in (texts | optional).items() if value}
    columns |= {name: None for name, value in optional.items() if value is None}
    columns |= {**ids, **numbers, "device_id": device, "currency": currency or "USD"}
    columns |= {"amount": float(amount), "event_time": moment}
    return ("{" + ", ".join(draw(st.permutations(fields))) + "}").encode(), columns


@settings(max_examples=40, deadline=None)
@given(st.lists(payments(), min_size=1, max_size=8))
def test_any_payment_comes_out_as_it_was_meant(batch: list[tuple[bytes, dict[str, Any]]]) -> None:
    parsed = parse_all([message for message, _ in batch])
    assert parsed.payments.to_pylist() == [columns for _, columns in batch]
    for message, columns in batch:
        assert read(message, LATEST_US) == columns


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text("0123456789", max_size=22).flatmap(lambda d: st.sampled_from((d, f"{d} ", f"{d}-", f"{d}x"))),
        max_size=9,
    )
)
def test_compiled_search_for_holds_card_number_agrees_with_the_one_for_redaction(pieces: list[str]) -> None:
    merchant = f"M{''.join(pieces)}"
    parsed = parse_all([payment(merchant=merchant)])
    assert (parsed.rejects.codes == ["PAN_DETECTED"]) == holds_card_number(merchant)


@settings(max_examples=200, deadline=None)
@given(st.floats(-180, 180), st.integers(15, 25))
def test_coordinates_round_as_python_rounds(longitude: float, digits: int) -> None:
    literals = [repr(longitude), f"{longitude:.{digits}e}", f"{longitude:.{digits}f}"]
    literals = [literal for literal in literals if abs(float(literal)) <= 180]
    parsed = parse_all([raw("latitude", f'0, "longitude": {literal}') for literal in literals])
    assert parsed.payments.column("longitude").to_pylist() == [float(literal) for literal in literals]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**16))
def test_amounts_round_as_python_rounds(units: int) -> None:
    literals = [f"{units // 10_000}.{units % 10_000:04}", f"{units}e-4", f"{units}00E-0006"]
    parsed = parse_all([raw("amount", literal) for literal in literals])
    assert parsed.payments.column("amount").to_pylist() == [float(literal) for literal in literals]
    assert all(math.isclose(amount, units / 10_000) for amount in parsed.payments.column("amount").to_pylist())


@settings(max_examples=200, deadline=None)
@given(st.integers(-2, 2), st.integers(0, 19), st.integers(300, 310))
def test_numbers_around_the_largest_are_finite_as_python_finds_them(step: int, digits: int, power: int) -> None:
    largest = str(2**1024 - 2**970)  # the least that rounds to infinity
    literal = f"{largest[0]}.{int(largest[1 : digits + 2]) + step if digits else 7}e{power}"
    parsed = parse_all([raw("x", literal)])
    assert bool(len(parsed.rows)) == math.isfinite(float(literal))
