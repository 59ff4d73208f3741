"""A label is taken whole or refused by name, and what was sent is never repeated."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contracts import contracts
from feature_repo.errors import BadConfiguration, BadRecord
from feature_repo.labels import UNNAMED, Label, parse
from pipelines.labels import Imported, read
from tests.cases import bad_inputs

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GOOD = {"transaction_id": "txn_1", "is_fraud": True, "label_time": "2026-01-30T10:00:00+02:00", "source": "analyst"}


def sent(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_label_is_parsed_to_utc() -> None:
    label = parse(sent(), NOW, 300)
    assert label == Label("txn_1", True, datetime(2026, 1, 30, 8, tzinfo=UTC), "analyst")


def test_a_label_without_source_is_unnamed_and_more_fields_are_ignored() -> None:
    assert parse(sent(source=None, colour="red"), NOW, 300).source == UNNAMED


@pytest.mark.parametrize("name", contracts()["labels"].examples)
def test_every_example_of_the_contract_is_taken(name: str) -> None:
    parse(contracts()["labels"].examples[name], NOW, 300)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (None, "TOMBSTONE"),
        (b" ", "EMPTY"),
        (b"\xff", "NOT_UTF8"),
        (b"{", "NOT_JSON"),
        (b"[1]", "NOT_OBJECT"),
        (b"[" * 50_000, "TOO_DEEP"),
        (b'{"a": "' + b"x" * 70_000 + b'"}', "TOO_LARGE"),
        (b'{"is_fraud": true, "is_fraud": false}', "DUPLICATE_KEY"),
        (sent(transaction_id=None), "FIELD_MISSING"),
        (b'{"transaction_id": "t", "is_fraud": true}', "FIELD_MISSING"),
        (sent(is_fraud=1), "TYPE"),
        (sent(is_fraud="true"), "TYPE"),
        (sent(transaction_id=5), "TYPE"),
        (sent(label_time=1_700_000_000), "TIME_FORMAT"),
        (sent(label_time=True), "TYPE"),
        (sent(transaction_id="  "), "ID_FORMAT"),
        (sent(transaction_id="x" * 129), "ID_FORMAT"),
        (sent(transaction_id="a\x00b"), "ID_FORMAT"),
        (sent(label_time="yesterday"), "TIME_FORMAT"),
        (sent(label_time="2026-01-30T10:00:00"), "TIME_NO_ZONE"),
        (sent(label_time="0001-01-01T00:00:00+14:00"), "TIME_INVALID"),
        (sent(label_time=(NOW + timedelta(seconds=301)).isoformat()), "TIME_FUTURE"),
        (sent(source="4111 1111 1111 1111"), "PAN_DETECTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_label_is_refused_by_name(payload: bytes | None, code: str) -> None:
    with pytest.raises(BadRecord) as refused:
        parse(payload, NOW, 300)
    assert refused.value.code == code
    assert "4111" not in str(refused.value)


def code_of(payload: bytes | None, now: datetime) -> str:
    try:
        parse(payload, now, 300)
    except BadRecord as error:
        return error.code
    return ""


@pytest.mark.parametrize("case", bad_inputs.DOCUMENTS, ids=lambda case: case.name)
def test_a_document_that_is_no_payment_is_no_label_under_the_same_code(case: bad_inputs.Case) -> None:
    assert code_of(case.payload, NOW) == case.code


ALIKE = {"timestamp": "label_time", "transaction_id": "transaction_id"}


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=lambda case: case.name)
def test_ids_and_times_are_those_of_payments(case: bad_inputs.Case) -> None:
    """What a payment's id or time may not be, a label's may not be either; every good payment can be labelled."""
    if case in bad_inputs.DOCUMENTS or (case.code and case.field not in ALIKE):
        return
    assert case.payload is not None
    document = json.loads(case.payload)
    label = {ours: document[theirs] for theirs, ours in ALIKE.items() if theirs in document} | {"is_fraud": True}
    now = datetime.fromtimestamp(bad_inputs.BROKER_TIME_US / 1e6, UTC)
    assert code_of(json.dumps(label).encode(), now) == case.code
    if not case.code and "event_time" in case.expect:
        assert parse(json.dumps(label).encode(), now, 300).label_time == case.expect["event_time"]


def labels_of(file: Path, done: Imported) -> list[Label]:
    return [label for found in read(file, NOW, 300, done) for label in found]


def test_a_csv_and_a_parquet_file_hold_the_same_labels(tmp_path: Path) -> None:
    text, table = tmp_path / "labels.csv", tmp_path / "labels.parquet"
    text.write_text("transaction_id,is_fraud,label_time\n007,1,2026-01-30T10:00:00Z\n008,False,2026-01-30T11:00:00Z\n")
    pq.write_table(
        pa.table({"transaction_id": ["007", "008"], "is_fraud": [True, False], "other": [1, 2],
                  "label_time": pa.array([datetime(2026, 1, 30, hour, tzinfo=UTC) for hour in (10, 11)])}), table
    )  # fmt: skip
    found = {file.suffix: labels_of(file, Imported()) for file in (text, table)}
    times = [datetime(2026, 1, 30, hour, tzinfo=UTC) for hour in (10, 11)]
    assert found[".csv"] == [
        Label("007", True, times[0], "labels.csv"), Label("008", False, times[1], "labels.csv")
    ]  # fmt: skip
    assert found[".parquet"] == [replace(label, source="labels.parquet") for label in found[".csv"]]


def test_a_bad_row_of_a_file_is_counted_and_its_neighbours_are_taken(tmp_path: Path) -> None:
    file, done = tmp_path / "labels.csv", Imported()
    rows = ("t1,true,2026-01-30T10:00:00Z,bank", "t2,yes,2026-01-30T10:00:00Z,bank", "t3,true,2026-01-30T10:00:00,",
            "t4,true", "t5,0,2026-01-30T10:00:00Z,")  # fmt: skip
    file.write_text("\n".join(("transaction_id,is_fraud,label_time,source", *rows)) + "\n")
    taken = labels_of(file, done)
    assert [(label.transaction_id, label.is_fraud, label.source) for label in taken] == [
        ("t1", True, "bank"), ("t5", False, UNNAMED)
    ]  # fmt: skip
    assert done.rows == 5
    assert done.refused == {"TYPE": 1, "TIME_NO_ZONE": 1, "CSV_ROW": 1}


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,fraud\n1,true\n")
    with pytest.raises(BadConfiguration, match="transaction_id, is_fraud, label_time"):
        labels_of(tmp_path / "labels.csv", Imported())
    with pytest.raises(BadConfiguration, match="no file"):
        labels_of(tmp_path / "nothing.csv", Imported())
