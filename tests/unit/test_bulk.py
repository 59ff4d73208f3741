"""Lines of the bulk protocol, made of decision documents without parsing them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import bulk

DOCUMENT = (
    b'{"decision_id":"transactions-3-1234","revision":2,"ingested_at":"2026-01-31T23:59:59.999999Z",'
    b'"kafka_topic":"transactions","amount":12.5}'
)


def test_an_entry_is_the_address_and_the_untouched_document() -> None:
    entry = bulk.entry(DOCUMENT)
    assert entry is not None
    action, document = entry.split(b"\n", 1)
    assert json.loads(action) == {
        "index": {
            "_index": "decisions-2026.01.31",
            "_id": "transactions-3-1234",
            "version": 2,
            "version_type": "external_gte",
        }
    }
    assert document == DOCUMENT + b"\n"
    assert bulk.address(entry) == ("transactions-3-1234", 2)


def test_spaces_between_tokens_change_nothing() -> None:
    spaced = json.dumps(json.loads(DOCUMENT)).encode()
    assert bulk.address(bulk.entry(spaced) or b"") == ("transactions-3-1234", 2)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b'{"revision":1,"decision_id":"a-0-1","ingested_at":"2026-01-31T00:00:00Z"}',  # another order
        b'{"decision_id":"a-0-1","ingested_at":"2026-01-31T00:00:00Z"}',
        b'{"decision_id":"a-0-1","revision":0,"ingested_at":"2026-01-31T00:00:00Z"}',
        b'{"decision_id":"a\\"-0-1","revision":1,"ingested_at":"2026-01-31T00:00:00Z"}',
        b'{"decision_id":"a b","revision":1,"ingested_at":"2026-01-31T00:00:00Z"}',
        b'{"decision_id":"a-0-1","revision":1,"ingested_at":1769817600}',
        b'{"decision_id":"a-0-1","revision":1,"ingested_at":"2026-01-31T00:00:00Z",\n"late":false}',  # two lines
        DOCUMENT + b'\n{"index":{}}',  # would smuggle in another action
    ],
)
def test_what_does_not_start_like_a_decision_on_one_line_is_none(value: bytes) -> None:
    assert bulk.entry(value) is None


@given(st.binary(max_size=200))
def test_an_entry_is_two_lines_whatever_comes_after_the_head(tail: bytes) -> None:
    entry = bulk.entry(DOCUMENT[:-1] + tail)
    assert entry is None if b"\n" in tail else entry is not None and entry.count(b"\n") == 2
