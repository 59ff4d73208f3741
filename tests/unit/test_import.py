"""Import: any file becomes a history of what the stream would have accepted, and says what it left out."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.settings import Settings, load
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import history
from pipelines.history import Imported, import_history
from pipelines.simulator import folder, world

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(home=tmp_path / "home")


def _payment(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "user_id": f"u{number % 3}",
        "amount": 10.25 + number,
        "timestamp": f"2025-03-01T10:{number:02d}:00Z",
        "merchant": "Online Store",
        "location": "New York",
        "payment_method": "credit_card",
        **changes,
    }


def _parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _imported(settings: Settings, file: Path, **options: Any) -> tuple[Imported, list[dict[str, Any]]]:
    done = import_history(settings, file, "mine", now=NOW, **options)
    written = pq.read_table(settings.home / "data" / "mine" / "history.parquet")
    assert written.schema == HISTORY_SCHEMA
    return done, written.to_pylist()


def test_a_simulated_history_comes_through_unchanged_with_its_truth(settings: Settings, tmp_path: Path) -> None:
    made = folder.write(world.build(world.Options(users=500, seed=1)), 5, tmp_path / "made")
    done = import_history(settings, tmp_path / "made" / "history.parquet", "sim")
    data = settings.home / "data" / "sim"
    assert pq.read_table(data / "history.parquet").equals(pq.read_table(tmp_path / "made" / "history.parquet"))
    assert (data / "truth.parquet").read_bytes() == (tmp_path / "made" / "truth.parquet").read_bytes()
    assert (done.rows_read, done.rows_kept, done.simulated) == (made.payments, made.payments, True)
    assert json.loads((data / "import.json").read_text()) == done.as_json()


def test_rows_come_in_order_of_event_where_no_arrival_is_known(settings: Settings, tmp_path: Path) -> None:
    done, rows = _imported(settings, _parquet(tmp_path / "f.parquet", [_payment(number) for number in (5, 1, 3)]))
    assert [row["transaction_id"] for row in rows] == ["t1", "t3", "t5"]
    assert [row["arrival_time"] for row in rows] == [row["event_time"] for row in rows]
    assert done.filled == {"arrival_time": "event_time"}
    assert [row["is_fraud"] for row in rows] == [None, None, None]


def test_arrival_decides_the_order_where_it_is_known(settings: Settings, tmp_path: Path) -> None:
    first = _payment(1, arrival_time="2025-03-01T12:00:00Z")
    second = _payment(2, arrival_time="2025-03-01T10:02:01Z")
    _, rows = _imported(settings, _parquet(tmp_path / "f.parquet", [first, second]))
    assert [row["transaction_id"] for row in rows] == ["t2", "t1"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": -1.0}, "RANGE"),
        ({"amount": 0.00001}, "PRECISION"),
        ({"amount": float("nan")}, "NUMBER_NOT_FINITE"),
        ({"amount": None}, "FIELD_MISSING"),
        ({"user_id": " "}, "ID_FORMAT"),
        ({"timestamp": "yesterday"}, "TIME_FORMAT"),
        ({"timestamp": "2025-02-30T10:00:00Z"}, "TIME_INVALID"),
        ({"timestamp": "2031-01-01T00:00:00Z"}, "TIME_FUTURE"),
        ({"merchant": "4111 1111 1111 1111"}, "PAN_DETECTED"),
        ({"merchant": None}, "FIELD_MISSING"),
        ({"label_time": "soon"}, "LABEL_TIME_FORMAT"),
        ({"arrival_time": "later"}, "ARRIVAL_TIME_FORMAT"),
        ({"is_fraud": "perhaps"}, "LABEL_FORMAT"),
    ],
)
def test_a_row_the_stream_would_refuse_is_dropped_under_its_code(
    settings: Settings, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    extra = {"label_time": "2025-04-01T00:00:00Z", "arrival_time": "2025-03-02T00:00:00Z", "is_fraud": "1"}
    rows = [_payment(0, **extra), _payment(1, **{**extra, **change}), _payment(2, **extra)]
    done, kept = _imported(settings, _parquet(tmp_path / "f.parquet", rows))
    assert [row["transaction_id"] for row in kept] == ["t0", "t2"]
    assert dict(done.dropped) == {code: 1}
    assert [(example["code"], example["row"]) for example in done.examples] == [(code, 2)]


def test_no_dropped_value_is_repeated_in_the_report(settings: Settings, tmp_path: Path) -> None:
    rows = [_payment(1), _payment(2, merchant="4111 1111 1111 1111")]
    _imported(settings, _parquet(tmp_path / "f.parquet", rows))
    assert "4111" not in (settings.home / "data" / "mine" / "import.json").read_text()


def test_of_equal_ids_the_first_to_arrive_stays(settings: Settings, tmp_path: Path) -> None:
    rows = [
        _payment(4),
        _payment(1),
        _payment(1),
        _payment(2),
        _payment(4, amount=99.0, timestamp="2025-03-01T09:00:00Z"),
    ]
    done, kept = _imported(settings, _parquet(tmp_path / "f.parquet", rows))
    assert [(row["transaction_id"], row["amount"]) for row in kept] == [("t4", 99.0), ("t1", 11.25), ("t2", 12.25)]
    assert dict(done.dropped) == {"DUPLICATE": 1, "ID_CONFLICT": 1}
    assert {(example["code"], example["row"]) for example in done.examples} == {("DUPLICATE", 3), ("ID_CONFLICT", 1)}


def test_csv_columns_are_mapped_and_constants_fill_what_a_file_lacks(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "cards.csv"
    file.write_text(
        "TX,CUSTOMER,TERMINAL,AMOUNT,AT,FRAUD\n"
        "0,596,3156,57.16,2018-04-01 00:00:31,0\n"
        "1,4961,3412,81.51,2018-04-01 00:02:10,1\n"
        "2,2,,146.00,2018-04-01 00:07:56,0\n"
    )
    names = {"transaction_id": "TX", "user_id": "CUSTOMER", "merchant": "TERMINAL", "amount": "AMOUNT"}
    done, rows = _imported(
        settings,
        file,
        columns={**names, "timestamp": "AT", "is_fraud": "FRAUD"},
        constants={"location": "unknown", "payment_method": "card"},
        timezone="Europe/Paris",
        label_delay_days=5,
    )
    assert dict(done.dropped) == {"FIELD_MISSING": 1}
    assert [(row["user_id"], row["merchant"], row["amount"]) for row in rows] == [
        ("596", "3156", 57.16),
        ("4961", "3412", 81.51),
    ]
    assert rows[0]["event_time"] == datetime(2018, 3, 31, 22, 0, 31, tzinfo=UTC)
    assert [row["is_fraud"] for row in rows] == [False, True]
    assert rows[0]["label_time"] is None
    assert (rows[1]["label_time"] - rows[1]["event_time"]).days == 5
    assert done.filled["label_time"] == "arrival_time + 5 days for 1 reported frauds"
    assert done.median_label_delay_days == 5.0


def test_numbers_of_a_parquet_file_serve_as_ids_and_naive_times_are_utc(settings: Settings, tmp_path: Path) -> None:
    table = pa.table(
        {
            "transaction_id": pa.array([1, 2]),
            "user_id": pa.array([7, 8], pa.int32()),
            "amount": pa.array([1, 2]),
            "timestamp": pa.array([0, 1_700_000_000_000_000_001], pa.timestamp("ns")),
            "merchant": pa.array(["a", "b"]).dictionary_encode(),
            "location": ["x", "y"],
            "payment_method": ["c", "c"],
            "is_fraud": [0, 1],
            "label_time": pa.array([None, 1_700_000_100], pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    _, rows = _imported(settings, tmp_path / "f.parquet")
    assert [(row["transaction_id"], row["user_id"], row["amount"]) for row in rows] == [
        ("1", "7", 1.0),
        ("2", "8", 2.0),
    ]
    assert rows[1]["event_time"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert [row["is_fraud"] for row in rows] == [False, True]


def test_a_csv_row_with_too_few_values_is_dropped_and_counted(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    csv.write_csv(pa.Table.from_pylist([_payment(1), _payment(2)]), file)
    file.write_text(file.read_text() + "t3,u1\n")
    done, rows = _imported(settings, file)
    assert len(rows) == 2
    assert (done.rows_read, dict(done.dropped)) == (3, {"CSV_ROW": 1})
    assert done.examples == [{"code": "CSV_ROW", "row": 3, "detail": "the row has 2 values, the header 7"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"merchnt": "merchant"}}, "did you mean merchant"),
        ({"columns": {"merchant": "merchnt"}}, "no column merchnt for merchant; did you mean merchant"),
        ({"timezone": "Paris"}, "Paris is no time zone"),
        ({"time_format": "seconds"}, "'seconds' is no time format"),
        ({"constants": {"user_id": "me"}}, "user_id cannot have one value for all rows"),
    ],
)
def test_a_wrong_mapping_is_refused_with_what_was_meant(
    settings: Settings, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    file = _parquet(tmp_path / "f.parquet", [_payment(1)])
    with pytest.raises(BadConfiguration, match=message):
        import_history(settings, file, "mine", **options)


HEADER = "transaction_id,user_id,amount,timestamp,merchant,location,payment_method"
LINE = "t1,u1,9.5,2025-03-01T10:00:00Z,m,l,p"


@pytest.mark.parametrize(
    ("content", "options"),
    [
        pytest.param(f"{HEADER}\n{LINE}\n".replace(",", ";"), {"delimiter": ";"}, id="semicolons"),
        pytest.param(f"\ufeff{HEADER}\n{LINE}\n", {}, id="byte order mark"),
        pytest.param(f"{HEADER}\r\nt1,u1, 9.5 , 2025-03-01 10:00:00 ,m,l,p\r\n", {}, id="blanks and Windows lines"),
        pytest.param(f'{HEADER},note\n{LINE},"called, and\nasked twice"\n', {}, id="quoted newline"),
        pytest.param(
            f"{HEADER}\nt1,u1,9.5,01/03/2025 10:00,m,l,p\n", {"time_format": "%d/%m/%Y %H:%M"}, id="day first"
        ),
        pytest.param(
            f"{HEADER}\nt1,u1,9.5,2025-03-01 11:00 +0100,m,l,p\n", {"time_format": "%Y-%m-%d %H:%M %z"}, id="own zone"
        ),
        pytest.param(f"{HEADER}\nt1,u1,9.5,1740823200,m,l,p\n", {"time_format": "epoch"}, id="seconds since 1970"),
        pytest.param(f"{HEADER}\nt1,u1,9.5,1740823200000,m,l,p\n", {"time_format": "epoch-ms"}, id="milliseconds"),
    ],
)  # fmt: skip
def test_a_csv_as_it_comes_is_read(settings: Settings, tmp_path: Path, content: str, options: dict[str, Any]) -> None:
    (tmp_path / "f.csv").write_text(content, newline="")
    done, rows = _imported(settings, tmp_path / "f.csv", **options)
    assert dict(done.dropped) == {}
    assert (rows[0]["amount"], rows[0]["event_time"]) == (9.5, datetime(2025, 3, 1, 10, tzinfo=UTC))


def test_a_compressed_csv_in_another_encoding_is_read(settings: Settings, tmp_path: Path) -> None:
    line = "t1,u1,9.5,2025-03-01T10:00:00Z,Café,São Paulo,p"
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(f"{HEADER}\n{line}\n".encode("latin-1")))
    with pytest.raises(BadConfiguration, match="UTF8") as error:
        import_history(settings, tmp_path / "f.csv.gz", "mine")
    assert "--encoding latin-1" in error.value.remedy
    _, rows = _imported(settings, tmp_path / "f.csv.gz", encoding="latin-1")
    assert rows[0]["location"] == "São Paulo"


@pytest.mark.parametrize(
    ("header", "message", "remedy"),
    [
        (HEADER.replace(",", ";"), "has one column only", "--delimiter ';'"),
        (f"{HEADER},merchant", "more than one column merchant", ""),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(
    settings: Settings, tmp_path: Path, header: str, message: str, remedy: str
) -> None:
    (tmp_path / "f.csv").write_text(f"{header}\n")
    with pytest.raises(BadConfiguration, match=message) as error:
        import_history(settings, tmp_path / "f.csv", "mine")
    assert error.value.remedy == remedy


@pytest.mark.parametrize(
    ("column", "values", "read"),
    [
        ("user_id", pa.array([596.0, 4961.0]), ["596", "4961"]),  # pandas: whole numbers, one missing somewhere
        ("merchant", pa.array([b"m1", b"m2"]), ["m1", "m2"]),
        ("amount", pa.array(["57.160000", "3"]).cast(pa.decimal128(18, 6)), [57.16, 3.0]),
        (
            "timestamp",
            pa.array([1740823200, 1740823201]),
            [datetime(2025, 3, 1, 10, 0, second, tzinfo=UTC) for second in (0, 1)],
        ),
    ],
)
def test_other_types_of_a_parquet_file_are_read(
    settings: Settings, tmp_path: Path, column: str, values: pa.Array, read: list[Any]
) -> None:
    table = pa.Table.from_pylist([_payment(1), _payment(2)])
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), tmp_path / "f.parquet")
    done, rows = _imported(settings, tmp_path / "f.parquet", time_format="epoch" if column == "timestamp" else None)
    assert dict(done.dropped) == {}
    assert [row["event_time" if column == "timestamp" else column] for row in rows] == read


def test_a_column_of_lists_is_refused_by_name(settings: Settings, tmp_path: Path) -> None:
    file = _parquet(tmp_path / "f.parquet", [_payment(1, merchant=["a", "b"])])
    with pytest.raises(BadConfiguration, match="column merchant for merchant is of type list"):
        import_history(settings, file, "mine")


def test_bytes_that_are_no_text_are_refused(settings: Settings, tmp_path: Path) -> None:
    file = _parquet(tmp_path / "f.parquet", [_payment(1, merchant=b"\xff\xfe")])
    with pytest.raises(BadConfiguration, match="rows up to 1: Invalid UTF8"):
        import_history(settings, file, "mine")


def test_labels_of_a_file_of_their_own_meet_their_payments(settings: Settings, tmp_path: Path) -> None:
    file = _parquet(tmp_path / "f.parquet", [_payment(number) for number in range(4)])
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "transaction_id,is_fraud,reported\nt1,1,2025-03-09 10:00:00\nt2,0,2025-03-05\nt2,1,2025-03-08\n"
        "t3,1,2025-03-08\nt3,0,2025-03-20\nunknown,1,2025-03-08\nt0,perhaps,2025-03-08\nt0,1,soon\n"
    )
    done, rows = _imported(settings, file, labels=labels, columns={"label_time": "reported"})
    assert [row["is_fraud"] for row in rows] == [False, True, True, False]
    assert [row["label_time"] and row["label_time"].day for row in rows] == [None, 9, 8, 20]
    told = {key: done.labels[key] for key in ("labels", "met", "without_payment", "refused")}
    assert told == {"labels": 4, "met": 3, "without_payment": 1, "refused": {"LABEL_TIME_FORMAT": 1, "LABEL_FORMAT": 1}}


def test_a_file_that_lists_frauds_needs_no_column_for_it(settings: Settings, tmp_path: Path) -> None:
    file = _parquet(tmp_path / "f.parquet", [{"TX": number, **_payment(number)} for number in range(3)])
    (tmp_path / "chargebacks.csv").write_text("TX,label_time\n1,2025-03-09\n")
    columns = {"transaction_id": "TX"}
    _, rows = _imported(settings, file, labels=tmp_path / "chargebacks.csv", columns=columns)
    assert [row["is_fraud"] for row in rows] == [False, True, False]
    (tmp_path / "empty.csv").write_text("TX\n1\n")
    with pytest.raises(BadConfiguration, match="labels have no column for is_fraud or label_time"):
        import_history(settings, file, "mine", labels=tmp_path / "empty.csv", columns=columns)


def test_a_file_larger_than_memory_holds_comes_in_order_with_repeats_left_out(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RUN_ROWS", 50)
    rng = np.random.default_rng(2)
    rows = [_payment(int(number), timestamp=f"2025-03-{1 + number % 28:02d}T10:00:00Z") for number in range(400)]
    rows += [rows[place] for place in rng.integers(0, 400, 60)]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    done, kept = _imported(settings, _parquet(tmp_path / "f.parquet", rows))
    assert len({row["transaction_id"] for row in kept}) == len(kept) == 400
    assert [row["arrival_time"] for row in kept] == sorted(row["arrival_time"] for row in kept)
    assert dict(done.dropped) == {"DUPLICATE": 60}


def test_an_import_knows_what_had_its_name_before(settings: Settings, tmp_path: Path) -> None:
    first, _ = _imported(settings, _parquet(tmp_path / "f.parquet", [_payment(1)]))
    second, _ = _imported(settings, _parquet(tmp_path / "f.parquet", [_payment(1), _payment(2)]))
    assert first.previous is None
    assert second.previous is not None
    assert second.previous["profile"] == first.profile
    refused = settings.home / "data" / "mine" / "validation.json"
    refused.write_text('{"passed": false}')
    third, _ = _imported(settings, _parquet(tmp_path / "f.parquet", [_payment(1)]))
    assert third.previous == second.previous


def test_a_missing_column_is_named_with_the_way_to_give_it(settings: Settings, tmp_path: Path) -> None:
    row = _payment(1)
    del row["location"], row["amount"]
    with pytest.raises(BadConfiguration, match="no column for amount, location") as error:
        import_history(settings, _parquet(tmp_path / "f.parquet", [row]), "mine")
    assert error.value.remedy == "--map amount=COLUMN, --constant location=unknown"


# pyarrow cannot hand a row that is not UTF-8 to its handler, and says so on its way to refusing the file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", bytes(range(256))])
def test_a_file_that_is_no_table_is_refused(settings: Settings, tmp_path: Path, content: bytes) -> None:
    for name in ("f.parquet", "f.csv"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadConfiguration):
            import_history(settings, tmp_path / name, "mine")
    with pytest.raises(BadConfiguration, match="is no file"):
        import_history(settings, tmp_path / "absent.csv", "mine")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65])
def test_a_name_that_would_leave_the_data_folder_is_refused(settings: Settings, tmp_path: Path, name: str) -> None:
    file = _parquet(tmp_path / "f.parquet", [_payment(1)])
    with pytest.raises(BadConfiguration, match="no name for a data set"):
        import_history(settings, file, name)


def test_a_file_without_one_payment_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    _imported(settings, _parquet(tmp_path / "good.parquet", [_payment(1)]))
    with pytest.raises(DataInvalid, match="none of 1 rows is a payment; 1 rows RANGE"):
        import_history(settings, _parquet(tmp_path / "bad.parquet", [_payment(2, amount=-1.0)]), "mine")
    assert pq.read_table(settings.home / "data" / "mine" / "history.parquet").num_rows == 1


def test_a_folder_that_cannot_be_written_is_said(settings: Settings, tmp_path: Path) -> None:
    settings.home.mkdir()
    (settings.home / "data").write_text("a file where the folder should be")
    with pytest.raises(BadConfiguration, match="data/mine cannot be written"):
        import_history(settings, _parquet(tmp_path / "f.parquet", [_payment(1)]), "mine")


def test_importing_again_removes_what_was_derived_from_the_old_history(settings: Settings, tmp_path: Path) -> None:
    _imported(settings, _parquet(tmp_path / "f.parquet", [_payment(1)]))
    data = settings.home / "data" / "mine"
    for name in ("features.parquet", "validation.html", "truth.parquet"):
        (data / name).write_bytes(b"old")
    _imported(settings, _parquet(tmp_path / "f.parquet", [_payment(1), _payment(2)]))
    assert sorted(path.name for path in data.iterdir()) == ["history.parquet", "import.json"]
