"""Rows as PostgreSQL sends them come out as the JSON and the CSV of the schema."""

import csv
import io
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api.transactions import sheet
from api.transactions.render import BOOLEAN, COLUMNS, TIME, Renderer
from api.transactions.schemas import Decision

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
PLACE = 3 << 48 | 77 << 4
ROW: dict[str, Any] = {
    "transaction_id": "t1", "user_id": "u", "amount": "1500.0000", "currency": "USD",
    "event_time": datetime(2026, 2, 28, 23, 59, 59, 7, UTC), "merchant": 'Café "№ 5"\\', "location": "New\tYork",
    "payment_method": "card", "outcome": "scored", "unscored_reason": None, "anomaly_score": "0.493",
    "is_anomaly": True, "anomaly_reason": "a", "anomaly_reasons": '["a","b"]', "decision": "review",
    "model_version": "1", "feature_set_id": "fs", "ruleset_version": "v0", "late": False,
    "processed_at": EPOCH, "decision_id": "top-ic", "revision": PLACE | 1, "ingested_at": EPOCH - timedelta(days=400),
}  # fmt: skip


def sent(row: dict[str, Any]) -> bytes:
    """As record_send has it."""
    fields = b""
    for name, _, form in COLUMNS:
        value = row[name]
        if value is None:
            fields += struct.pack(">ii", 25, -1)
            continue
        if form == TIME:
            content = struct.pack(">q", (value - EPOCH) // timedelta(microseconds=1))
        elif form == BOOLEAN:
            content = bytes([value])
        else:
            content = struct.pack(">q", value) if name == "revision" else value.encode()
        fields += struct.pack(">ii", 25, len(content)) + content
    return struct.pack(">i", len(COLUMNS)) + fields


def rendered(*rows: dict[str, Any], limit: int = 10) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(b"[%s]" % Renderer().render(b"".join(map(sent, rows)), limit).content)
    return found


def test_a_row_is_the_decision_it_holds() -> None:
    (found,) = rendered(ROW)
    assert list(found) == list(Decision.model_fields)
    assert found == {
        **ROW, "amount": 1500.0, "anomaly_score": 0.493, "event_time": "2026-02-28T23:59:59.000007Z",
        "processed_at": "2000-01-01T00:00:00.000000Z", "ingested_at": "1998-11-27T00:00:00.000000Z",
        "anomaly_reasons": ["a", "b"], "decision_id": "top-ic-3-77", "revision": 1,
    }  # fmt: skip
    Decision.model_validate(found)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_comes_back(text: str) -> None:
    assert rendered({**ROW, "merchant": text})[0]["merchant"] == text


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)))
def test_any_time_comes_back(time: datetime) -> None:
    found = rendered({**ROW, "event_time": time.replace(tzinfo=UTC)})[0]["event_time"]
    assert found == time.isoformat(timespec="microseconds") + "Z"


def test_what_is_not_there_is_null_and_reasons_are_an_empty_list() -> None:
    nothing = dict.fromkeys(("anomaly_score", "is_anomaly", "anomaly_reason", "anomaly_reasons", "decision"))
    (found,) = rendered({**ROW, **nothing})
    assert found["anomaly_reasons"] == []
    assert [found[name] for name in nothing if name != "anomaly_reasons"] == [None] * 4


def test_the_revision_that_was_replaced_is_left_out_and_the_rest_is_counted() -> None:
    rows = [{**ROW, "revision": PLACE | 2}, {**ROW, "revision": PLACE | 1}, {**ROW, "revision": PLACE - 16 | 1}]
    assert [row["revision"] for row in rendered(*rows)] == [2, 1]
    page = Renderer().render(b"".join(map(sent, rows)), 2)
    assert (page.shown, page.more, page.id, page.event_time) == (1, True, PLACE | 1, ROW["event_time"])
    assert Renderer().render(b"", 2).content == b""


def test_a_sheet_runs_no_formula() -> None:
    rows = [{**ROW, "merchant": text} for text in ("=1+1", "+1", "-1", "@x", "Store, the", "a=b")]
    lines = b"\n".join(Renderer().render(sent(row), 1).content for row in rows)
    found = list(csv.DictReader(io.StringIO((sheet.HEAD + sheet.rows(lines)).decode())))
    assert [row["merchant"] for row in found] == ["'=1+1", "'+1", "'-1", "'@x", "Store, the", "a=b"]
    assert {row["amount"] for row in found} == {"1500.0"}
    assert {(row["anomaly_reasons"], row["unscored_reason"], row["is_anomaly"]) for row in found} == {
        ("a b", "", "true")
    }
