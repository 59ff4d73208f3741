"""The data commands: what they print, write and refuse."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from feature_repo.errors import DataInvalid, DependencyDown, StoreUnavailable, VigilError
from pipelines.cli import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIGIL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_simulate_import_and_validate_lead_from_nothing_to_a_checked_data_set(home: Path, tmp_path: Path) -> None:
    made = run("simulate", "--out", str(tmp_path / "out"), "--users", "300", "--days", "8", "--seed", "4", "--json")
    assert made.exit_code == 0
    payments = json.loads(made.stdout)["payments"]
    imported = run("import", str(tmp_path / "out" / "history.parquet"), "--name", "sim", "--json")
    assert json.loads(imported.stdout)["rows_kept"] == payments
    validated = run("validate", "--data", "sim", "--json")
    assert validated.exit_code == 0
    assert json.loads(validated.stdout)["passed"] is True
    assert (home / "data" / "sim" / "validation.html").exists()


def test_simulate_into_a_data_set_leaves_nothing_else_behind(home: Path) -> None:
    made = run("simulate", "--name", "sim", "--users", "50", "--days", "3")
    assert "data set sim" in made.stdout
    assert sorted(path.name for path in (home / "data" / "sim").iterdir()) == [
        "history.parquet",
        "import.json",
        "manifest.json",
        "simulation.html",
        "truth.parquet",
    ]


def test_simulate_draws_its_history_on_one_page_that_loads_nothing(tmp_path: Path) -> None:
    options = ("--users", "200", "--days", "9", "--prevalence", "0.1", "--new-mechanism-day", "4")
    assert run("simulate", "--out", str(tmp_path / "out"), *options).exit_code == 0
    page = (tmp_path / "out" / "simulation.html").read_text()
    assert not re.search(r"https?:|src=\"(?!data:)|@import", page)
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert f"<td>payments<td>{made['payments']:,}</tr>" in page
    assert "of them persuaded_owner" in page


def test_import_prints_what_it_dropped(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(
        "transaction_id,user_id,amount,timestamp,merchant,location,payment_method\n"
        "a,u,1.50,2025-01-01T00:00:00Z,m,l,p\nb,u,-1,2025-01-01T00:00:00Z,m,l,p\n"
    )
    result = run("import", str(file), "--name", "mine")
    assert "1 of 2 rows kept" in result.stdout
    assert "RANGE" in result.stdout


def test_a_data_set_that_is_not_fit_ends_validate_with_its_failures(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(
        "transaction_id,user_id,amount,timestamp,merchant,location,payment_method\n"
        "a,u,1.50,2025-01-01T00:00:00Z,m,l,p\n"
    )
    run("import", str(file), "--name", "tiny")
    result = run("validate", "--data", "tiny")
    assert isinstance(result.exception, DataInvalid)
    assert result.exception.exit_code == 3
    assert "rows_enough" in result.exception.message


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate",),
        ("import", "absent.csv", "--name", "x"),
        ("import", "absent.csv", "--name", "x", "--map", "merchant"),
        ("validate", "--data", "absent"),
        ("produce", "--data", "absent"),
        ("produce", "--shift-to-now"),
        ("produce", "--data", "a", "--after", "b"),
        ("produce", "--after", "absent", "--defects", "nonsense"),
    ],
)
def test_a_wrong_request_is_refused_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, VigilError)
    assert result.exception.exit_code == 2


def test_where_no_stack_was_ever_started_replay_needs_none_and_train_says_so_before_it_trains(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a database that somebody named may hold labels: then it must answer."""
    run("simulate", "--name", "sim", "--users", "50", "--days", "3")
    replayed = run("replay", "--data", "sim")
    assert replayed.exit_code == 0 and "no stack was ever started" in replayed.stdout
    assert (home / "data" / "sim" / "features.parquet").exists()
    monkeypatch.setenv("VIGIL_MLFLOW_URL", "http://127.0.0.1:1")
    trained = run("train", "--data", "sim", "--from", "2025-01-01", "--to", "2025-01-02")
    assert isinstance(trained.exception, DependencyDown) and trained.exception.dependency == "MLflow"
    assert "vigil up" in trained.exception.remedy

    (home / "stack.env").write_text("VIGIL_POSTGRES_DSN=postgresql://vigil_writer@127.0.0.1:1/vigil\n")
    assert isinstance(run("replay", "--data", "sim").exception, StoreUnavailable)
