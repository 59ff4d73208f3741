"""Validation: a good history passes; each way of breaking one fails and names the check."""

import html.parser
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.settings import Settings, load
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import quality
from pipelines.history import import_history
from pipelines.simulator import folder, world

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Rows = dict[str, list[Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose data set `good` is an imported simulation."""
    home = tmp_path_factory.mktemp("home")
    folder.write(world.build(world.Options(users=500, seed=1, prevalence=0.01)), 8, home / "simulated")
    import_history(load(home=home), home / "simulated" / "history.parquet", "good")
    return home


@pytest.fixture(scope="module")
def rows(made: Path) -> Rows:
    columns: Rows = pq.read_table(made / "data" / "good" / "history.parquet").to_pydict()
    return columns


def _settings(tmp_path: Path, columns: Rows, imported: dict[str, Any] | None = None) -> Settings:
    settings = load(home=tmp_path)
    data = settings.home / "data" / "broken"
    data.mkdir(parents=True)
    nullable = pa.schema([field.with_nullable(True) for field in HISTORY_SCHEMA])
    pq.write_table(pa.table(columns, schema=nullable), data / "history.parquet")
    if imported is not None:
        (data / "import.json").write_text(json.dumps(imported))
    return settings


def test_a_good_history_passes_and_leaves_a_report_and_a_page(made: Path) -> None:
    report = quality.validate(load(home=made), "good", now=NOW)
    assert report.passed
    assert report.failures == []
    document = json.loads((made / "data" / "good" / "validation.json").read_text())
    assert document["passed"] is True
    assert {finding["name"] for finding in document["findings"]} == {finding.name for finding in report.findings}
    page = report.path.read_text()
    html.parser.HTMLParser().feed(page)
    assert "fit for training" in page
    assert not re.search(r"https?:|src=|@import", page)


def _set(column: str, value: Any, at: int = 3) -> Callable[[Rows], None]:
    def change(columns: Rows) -> None:
        columns[column][at] = value

    return change


def _all(column: str, value: Callable[[int], Any]) -> Callable[[Rows], None]:
    def change(columns: Rows) -> None:
        columns[column] = [value(row) for row in range(len(columns[column]))]

    return change


def _shorter(columns: Rows) -> None:
    for name in columns:
        columns[name] = columns[name][:500]


def _swapped(columns: Rows) -> None:
    for name in columns:
        columns[name][10], columns[name][500] = columns[name][500], columns[name][10]


def _label_early(columns: Rows) -> None:
    columns["is_fraud"][5] = True
    columns["label_time"][5] = columns["event_time"][5] - timedelta(hours=1)


def _label_untimed(columns: Rows) -> None:
    columns["is_fraud"][5], columns["label_time"][5] = True, None


def _no_fraud(columns: Rows) -> None:
    columns["is_fraud"] = [False] * len(columns["is_fraud"])


def _ancient(columns: Rows) -> None:
    for row in range(100):
        columns["event_time"][row] = datetime(1990, 1, 1, tzinfo=UTC)


def _last_ahead(columns: Rows) -> None:
    columns["event_time"][-1] = columns["arrival_time"][-1] = NOW + timedelta(minutes=6)


def _much_fraud(columns: Rows) -> None:
    for row in range(0, len(columns["is_fraud"]), 10):
        columns["is_fraud"][row] = True
        columns["label_time"][row] = columns["arrival_time"][row] + timedelta(days=1)


def _dearer(columns: Rows) -> None:
    columns["amount"] = [3 * amount for amount in columns["amount"]]


def _hours_later(columns: Rows) -> None:
    """As if times had been read in another zone."""
    for name in ("event_time", "arrival_time", "label_time"):
        columns[name] = [time and time + timedelta(hours=9) for time in columns[name]]


def _compressed(columns: Rows) -> None:
    """Eight days in one, hour by hour as before."""
    for row, (event, arrival) in enumerate(zip(columns["event_time"], columns["arrival_time"], strict=True)):
        day = timedelta(days=(event - datetime(2025, 1, 1, tzinfo=UTC)).days)
        columns["event_time"][row], columns["arrival_time"][row] = event - day, arrival - day
    order = sorted(range(len(columns["amount"])), key=lambda row: columns["arrival_time"][row])
    for name in columns:
        columns[name] = [columns[name][row] for row in order]


# Each is to break what is told of a history against the import before, and of the others nothing.
SHIFTS: dict[str, Callable[[Rows], None]] = {
    "amount_shift": _dearer,
    "hour_shift": _hours_later,
    "merchant_shift": lambda columns: _all("merchant", lambda row: f"{columns['merchant'][row][:4]}")(columns),
    "location_shift": _all("location", lambda row: "unknown"),
    "payment_method_shift": _all("payment_method", lambda row: "card"),
    "merchant_category_shift": _all("merchant_category", lambda row: None),
    "channel_shift": _all("channel", lambda row: "web"),
    "device_shift": _all("device_id", lambda row: None),
    "coordinates_shift": lambda columns: [_all(name, lambda row: None)(columns) for name in ("latitude", "longitude")],
    "pace_ratio": _compressed,
    "fraud_ratio": _much_fraud,
}
BREAKS: dict[str, Callable[[Rows], None]] = {
    **{f"{name}_present": _set(name, None) for name in ("transaction_id", "user_id", "amount", "event_time")},
    **{f"{name}_present": _set(name, None) for name in ("merchant", "location", "payment_method")},
    "arrival_time_present": _set("arrival_time", None),
    "transaction_id_length": _set("transaction_id", "x" * 129),
    "user_id_length": _set("user_id", ""),
    "merchant_length": _set("merchant", "x" * 257),
    "location_length": _set("location", ""),
    "payment_method_length": _set("payment_method", "x" * 257),
    "amount_range": _set("amount", 0.0),
    "latitude_range": _set("latitude", 91.0),
    "longitude_range": _set("longitude", -200.0),
    "time_not_ancient": _ancient,
    "time_before_arrival": lambda columns: _set("event_time", columns["arrival_time"][3] + timedelta(minutes=6))(
        columns
    ),
    "time_not_ahead": _last_ahead,
    "label_after_event": _label_early,
    "rows_enough": _shorter,
    "ids_unique": lambda columns: _set("transaction_id", columns["transaction_id"][4])(columns),
    "order_of_arrival": _swapped,
    "users_repeat": _all("user_id", lambda row: f"u{row}"),
    "merchants_repeat": _all("merchant", lambda row: f"m{row}"),
    "methods_few": _all("payment_method", lambda row: f"m{row}"),
    "currency_one": _all("currency", lambda row: "EUR"),
    "frauds_timed": _label_untimed,
    "fraud_share": _no_fraud,
}


@pytest.mark.parametrize("check", BREAKS)
def test_a_broken_history_fails_and_the_check_is_named(rows: Rows, tmp_path: Path, check: str) -> None:
    columns = {name: list(values) for name, values in rows.items()}
    BREAKS[check](columns)
    report = quality.validate(_settings(tmp_path, columns), "broken", now=NOW)
    assert not report.passed
    assert [failure.partition(":")[0] for failure in report.failures] == [check]


@pytest.mark.parametrize("check", SHIFTS)
def test_a_history_unlike_the_import_before_fails_and_the_check_is_named(
    made: Path, rows: Rows, tmp_path: Path, check: str
) -> None:
    columns = {name: list(values) for name, values in rows.items()}
    SHIFTS[check](columns)
    profile = json.loads((made / "data" / "good" / "import.json").read_text())["profile"]
    settings = _settings(tmp_path, columns, {"previous": {"imported_at": "2025-12-01", "profile": profile}})
    report = quality.validate(settings, "broken", now=NOW)
    assert [failure.partition(":")[0] for failure in report.failures] == [check]
    assert quality.validate(settings, "broken", now=NOW, compare=False).passed


def test_another_data_set_can_be_what_a_history_is_compared_with(made: Path, rows: Rows) -> None:
    columns = {name: list(values) for name, values in rows.items()}
    _dearer(columns)
    data = made / "data" / "dear"
    data.mkdir()
    pq.write_table(pa.table(columns, schema=HISTORY_SCHEMA), data / "history.parquet")
    assert quality.validate(load(home=made), "dear", now=NOW).passed
    report = quality.validate(load(home=made), "dear", against="good", now=NOW)
    assert report.against == "data set good"
    assert [failure.partition(":")[0] for failure in report.failures] == ["amount_shift"]
    assert "Distributions compared with data set good." in report.path.read_text()
    with pytest.raises(BadConfiguration, match="no imported data set dear"):
        quality.validate(load(home=made), "good", against="dear", now=NOW)


def test_an_import_that_dropped_much_fails(rows: Rows, tmp_path: Path) -> None:
    settings = _settings(tmp_path, rows, {"rows_read": 1_000, "dropped": {"RANGE": 51}, "simulated": False})
    report = quality.validate(settings, "broken", now=NOW)
    assert [failure.partition(":")[0] for failure in report.failures] == ["dropped_few"]


def test_every_check_has_a_history_that_breaks_it(made: Path) -> None:
    from pipelines import expectations

    every = [*expectations.of_rows(NOW, simulated=False), *expectations.of_totals(imported=True, labelled=True)]
    every += expectations.of_shifts(expectations.SHIFTS)
    assert sorted(check.name for check in every) == sorted([*BREAKS, *SHIFTS, "dropped_few"])


def test_a_history_without_labels_is_not_asked_for_fraud(rows: Rows, tmp_path: Path) -> None:
    empty = [None] * len(rows["is_fraud"])
    report = quality.validate(_settings(tmp_path, rows | {"is_fraud": empty, "label_time": empty}), "broken", now=NOW)
    assert report.passed


def test_the_report_holds_no_value_of_the_data(rows: Rows, tmp_path: Path) -> None:
    columns = {name: list(values) for name, values in rows.items()}
    columns["merchant"][3] = "card 4111111111111111 " + "x" * 257
    report = quality.validate(_settings(tmp_path, columns), "broken", now=NOW)
    assert not report.passed
    assert "4111" not in report.path.read_text() + (report.path.parent / "validation.json").read_text()


def test_a_passing_report_is_used_until_the_history_changes(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path, rows)
    quality.require_valid(settings, "broken")
    ran: list[str] = []
    validate = quality.validate
    monkeypatch.setattr(quality, "validate", lambda settings, name: ran.append(name) or validate(settings, name))
    quality.require_valid(settings, "broken")
    assert ran == []
    path = settings.home / "data" / "broken" / "history.parquet"
    broken = pq.read_table(path)
    at = broken.schema.get_field_index("amount")
    pq.write_table(broken.set_column(at, "amount", pa.array(np.zeros(broken.num_rows))), path)
    with pytest.raises(DataInvalid, match="amount_range"):
        quality.require_valid(settings, "broken")
    assert ran == ["broken"]


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no data set nowhere"):
        quality.validate(load(home=tmp_path), "nowhere")


def test_a_table_that_is_no_history_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data" / "odd"
    data.mkdir(parents=True)
    pq.write_table(pa.table({"transaction_id": ["a"]}), data / "history.parquet")
    with pytest.raises(BadConfiguration, match="column user_id"):
        quality.validate(load(home=tmp_path), "odd")
