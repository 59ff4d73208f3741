import hashlib
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import parser
from feature_repo.codes import Code
from feature_repo.errors import BadRecord
from feature_repo.parser import Parsed, ParseOptions, parse, parse_one
from feature_repo.transaction import SCHEMA
from tests.cases.bad_inputs import BAD, BROKER_TIME_US, CARD, CARD_DIGITS, CASES, GOOD, Case, payment

DECIDED_LATER = {Code.ID_CONFLICT, Code.REKEYED, Code.KEY_MISMATCH, Code.PROCESSING_FAILED}


def parse_all(messages: list[bytes | None], options: ParseOptions | None = None) -> Parsed:
    return parse(pa.array(messages, pa.binary()), np.full(len(messages), BROKER_TIME_US), options)


def neighbour(number: int) -> bytes:
    return payment(transaction_id=f"txn_{number}", merchant=f"Laden {number} in Köln", amount=number + 0.25)


@pytest.fixture(scope="module")
def between_neighbours() -> Parsed:
    """Every case of the table, each between two good payments."""
    messages: list[bytes | None] = []
    for number, case in enumerate(CASES):
        messages += [neighbour(number), case.payload]
    return parse_all([*messages, neighbour(len(CASES))])


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_case_gets_its_outcome_between_good_payments(number: int, between_neighbours: Parsed) -> None:
    case = CASES[number]
    row = 2 * number + 1
    if not case.code:
        at = int(np.searchsorted(between_neighbours.rows, row))
        assert between_neighbours.rows[at] == row
        assert_columns(between_neighbours.payments, at, case)
        return
    rejects = between_neighbours.rejects
    at = int(np.searchsorted(rejects.rows, row))
    assert rejects.rows[at] == row
    assert (rejects.codes[at], rejects.fields[at]) == (case.code, case.field)
    assert_evidence(between_neighbours, at, case)


def assert_columns(payments: pa.RecordBatch, at: int, case: Case) -> None:
    found = payments.slice(at, 1).to_pylist()[0]
    assert {name: found[name] for name in case.expect} == case.expect


def assert_evidence(parsed: Parsed, at: int, case: Case) -> None:
    payload = case.payload or b""
    rejects = parsed.rejects
    assert rejects.sizes[at] == len(payload)
    assert rejects.sha256[at] == hashlib.sha256(payload).digest()
    assert len(rejects.payloads[at]) <= 4096
    kept = rejects.payloads[at]
    assert [
        (here, there) for here, there in zip(kept, payload, strict=False) if here != there and here != ord("*")
    ] == []


@pytest.mark.parametrize("case", [case for case in CASES if case.payload is not None], ids=lambda case: case.name)
def test_case_gets_its_outcome_alone(case: Case) -> None:
    assert case.payload is not None
    if not case.code:
        assert_columns(parse_one(case.payload, BROKER_TIME_US), 0, case)
        return
    with pytest.raises(BadRecord) as caught:
        parse_one(case.payload, BROKER_TIME_US)
    assert (caught.value.code, caught.value.status, caught.value.field) == (case.code, case.status, case.field)


def test_neighbours_of_bad_messages_are_untouched(between_neighbours: Parsed) -> None:
    kept = between_neighbours.payments.filter(pa.array(between_neighbours.rows % 2 == 0)).to_pydict()
    count = len(CASES) + 1
    assert kept["transaction_id"] == [f"txn_{number}" for number in range(count)]
    assert kept["merchant"] == [f"Laden {number} in Köln" for number in range(count)]
    assert kept["amount"] == [number + 0.25 for number in range(count)]


def test_every_message_is_a_payment_or_a_reject(between_neighbours: Parsed) -> None:
    rows = np.concatenate([between_neighbours.rows, between_neighbours.rejects.rows])
    assert sorted(rows.tolist()) == list(range(2 * len(CASES) + 1))
    between_neighbours.payments.validate(full=True)
    assert between_neighbours.payments.schema.equals(SCHEMA)


def test_table_shows_every_code_the_parser_gives() -> None:
    assert {case.code for case in BAD} == {code.value for code in Code} - DECIDED_LATER
    assert {case.code: case.status for case in BAD} == {
        code.value: code.status for code in Code if code in {c.code for c in BAD}
    }
    assert len({case.name for case in CASES}) == len(CASES)


def strings_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings_in(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings_in(one)]
    return [str(value)] if isinstance(value, str) else []


def test_detail_names_the_field_and_never_its_value(between_neighbours: Parsed) -> None:
    for at, row in enumerate(between_neighbours.rejects.rows.tolist()):
        case, detail = CASES[row // 2], between_neighbours.rejects.details[at]
        assert case.field in detail and "{" not in detail
        try:
            said = strings_in(json.loads(case.payload or b""))
        except (ValueError, RecursionError):
            continue
        assert not [text for text in said if len(text) > 3 and text in detail], case.name


def test_no_card_number_is_left_in_what_is_kept(between_neighbours: Parsed) -> None:
    kept = b"\n".join(between_neighbours.rejects.payloads + [d.encode() for d in between_neighbours.rejects.details])
    for secret in (CARD, CARD_DIGITS, CARD.replace(" ", "-"), "4222222222222", "3782 822463 10005"):
        assert secret.encode() not in kept
    masked = [
        p
        for p, code in zip(between_neighbours.rejects.payloads, between_neighbours.rejects.codes, strict=True)
        if code == Code.PAN_DETECTED
    ]
    assert not [payload for payload in masked if re.search(rb'"123"|: 123[^4]', payload)]  # security codes
    assert b"Shop **** **** **** ****" in kept


def test_card_number_cut_at_the_end_of_what_is_kept_is_masked() -> None:
    start = len(payment(amount=-1, merchant="")) - len('", "location": "New York", "payment_method": "credit_card"}')
    for overlap in range(1, len(CARD)):
        merchant = "x" * (4096 - start - overlap - 1) + " " + CARD
        kept = parse_all([payment(amount=-1, merchant=merchant)]).rejects.payloads[0]
        assert len(kept) == 4096
        assert not re.search(rb"[0-9]", kept[-overlap:])


def test_bad_amount_of_a_payment_with_a_card_number_is_kept_without_it() -> None:
    parsed = parse_all([payment(amount=-1, location=CARD, x={"Card_CVV": "987"})])
    assert CARD.encode() not in parsed.rejects.payloads[0]
    assert b"987" not in parsed.rejects.payloads[0]


def test_unknown_fields_of_payments_are_counted_and_those_of_rejects_are_not() -> None:
    parsed = parse_all([payment(x=1, y={"a": 1, "b": 2}), payment(), payment(amount=0, x=1), payment(z=None)])
    assert parsed.extra_fields == 3


def test_currency_given_by_the_options_where_none_is_named() -> None:
    parsed = parse_all([payment(), payment(currency="USD"), payment(currency=None)], ParseOptions(currency="CHF"))
    assert parsed.payments.column("currency").to_pylist() == ["CHF", "USD", "CHF"]


def test_card_numbers_in_ids_are_found_only_when_asked_for() -> None:
    messages: list[bytes | None] = [
        payment(user_id=CARD_DIGITS),
        payment(transaction_id=f"é{CARD}"),
        payment(device_id=CARD),
    ]
    assert len(parse_all(messages).rows) == 3
    asked = parse_all(messages, ParseOptions(pan_in_ids=True))
    assert asked.rejects.codes == ["PAN_DETECTED"] * 3
    assert asked.rejects.fields == ["user_id", "transaction_id", "device_id"]


def test_tolerance_for_the_future_is_an_option_and_each_row_has_its_own_clock() -> None:
    values = pa.array([payment()] * 3, pa.binary())
    event = BROKER_TIME_US - 145_000_000  # 14:22:35
    broker = np.array([event - 1, event, event - 1_000_001])
    assert parse(values, broker, ParseOptions(future_tolerance_us=0)).rows.tolist() == [1]
    assert parse(values, broker, ParseOptions(future_tolerance_us=1_000_000)).rows.tolist() == [0, 1]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_slices_and_nulls_of_any_binary_array(kind: pa.DataType) -> None:
    messages = [payment(transaction_id=f"txn_{row}") if row % 3 else None for row in range(20)]
    whole = pa.array(messages, kind)
    for start, length in ((0, 20), (1, 1), (7, 9), (19, 1), (5, 0), (20, 0)):
        parsed = parse(whole.slice(start, length), np.full(length, BROKER_TIME_US))
        expected = [row for row in range(length) if (start + row) % 3]
        assert parsed.rows.tolist() == expected
        assert parsed.payments.column("transaction_id").to_pylist() == [f"txn_{start + row}" for row in expected]
        assert parsed.rejects.codes == ["TOMBSTONE"] * (length - len(expected))


def test_message_at_the_very_end_of_its_memory() -> None:
    for message in (
        payment(),
        payment()[:-1],
        b"{",
        b'{"a',
        b'{"amount":1',
        payment(merchant="é"),
        b'"',
        b'"\\',
        b"\xc3",
    ):
        content = np.frombuffer(message, np.uint8).copy()
        buffers = [None, pa.py_buffer(np.array([0, len(content)], np.int32)), pa.py_buffer(content)]
        alone = parse(pa.Array.from_buffers(pa.binary(), 1, buffers), np.array([BROKER_TIME_US]))
        assert alone.rejects.codes == parse_all([message, b" " * 64]).rejects.codes[: 1 - len(alone.rows)]


def test_batch_of_nulls_and_of_nothing() -> None:
    assert parse(pa.nulls(3, pa.binary()), np.zeros(3, np.int64)).rejects.codes == ["TOMBSTONE"] * 3
    nothing = parse_all([])
    assert nothing.payments.num_rows == 0 and nothing.payments.schema.equals(SCHEMA)


def test_one_missing_optional_field_leaves_the_others_of_its_column() -> None:
    channels = ["web", None, "pos", None, None, "Café", None, None, "x" * 9, None]
    parsed = parse_all([payment(channel=channel) for channel in channels])
    assert parsed.payments.column("channel").to_pylist() == channels
    assert parsed.payments.column("channel").null_count == 6


def test_misuse_is_refused() -> None:
    with pytest.raises(TypeError, match="not string"):
        parse(pa.array(["{}"]), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="2 messages, but 1 broker times"):
        parse(pa.array([b"", b""], pa.binary()), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="too many"):
        parse(pa.nulls(parser.MAX_ROWS + 1, pa.binary()), np.zeros(parser.MAX_ROWS + 1, np.int64))


def test_sample_of_the_parser_is_the_sample_of_the_table() -> None:
    assert parse_one(parser.SAMPLE, BROKER_TIME_US).equals(parse_one(GOOD[0].payload or b"", BROKER_TIME_US))
