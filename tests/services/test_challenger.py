"""The version on trial: its alias and audit rows, and what it is compared by, on real servers."""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from typer.testing import CliRunner

from feature_repo.errors import BadConfiguration, PromotionRefused
from feature_repo.settings import Settings
from infra.sql import migrate
from pipelines.challenger import Challenge, set_challenger, unset_challenger
from pipelines.cli import app
from pipelines.compare import live
from pipelines.compare.run import LIVE, Question, compare
from pipelines.promote import rollback
from pipelines.versions import Versions
from tests.cases import data_sets, gate_world, tiny_model
from tests.cases.tables import FIRST_DAY
from tests.services.test_migrations import DECISION, database_of_its_own
from tests.services.test_models import audited, forced, publish, sound
from training.train import train

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def line(stack: Settings) -> Settings:
    """Settings with a registered model of the test's own."""
    return stack.model_copy(update={"model_name": f"line-{uuid.uuid4().hex[:8]}"})


def test_a_challenger_is_named_and_let_go_with_an_audit_row_each(line: Settings, tmp_path: Path) -> None:
    first, second, third = (sound(line, tmp_path, scale) for scale in (0.1, 0.2, 0.3))
    forced(line, first, "ada")
    assert set_challenger(line, second, "ben") == Challenge(second, None, changed=True)
    assert set_challenger(line, second, "ben") == Challenge(second, second, changed=False)
    assert set_challenger(line, "latest", "ben") == Challenge(third, second, changed=True)
    assert Versions(line).aliases() == {"champion": first, "challenger": third}
    assert unset_challenger(line, "ben") == Challenge(None, third, changed=True)
    assert unset_challenger(line, "ben") == Challenge(None, None, changed=False)
    assert Versions(line).aliases() == {"champion": first}
    assert [(actor, action, after.get("challenger")) for actor, action, _, after in audited(line)] == [
        ("ada", "promote", None),
        ("ben", "challenger", second),
        ("ben", "challenger", third),
        ("ben", "challenger", None),
    ]


def test_only_a_sound_version_that_does_not_serve_can_challenge(line: Settings, tmp_path: Path) -> None:
    first = sound(line, tmp_path)
    forced(line, first, "ada")
    with pytest.raises(BadConfiguration, match="is the champion"):
        set_challenger(line, "champion", "ben")
    with pytest.raises(BadConfiguration, match="no version '9'"):
        set_challenger(line, "9", "ben")
    file = tmp_path / "spoilt.onnx"
    sha256 = tiny_model.write(file)
    file.write_bytes(b"garbage")
    spoilt = publish(line, file, {"artifact_sha256": sha256})
    with pytest.raises(PromotionRefused):
        set_challenger(line, spoilt, "ben")
    assert Versions(line).aliases() == {"champion": first}
    assert len(audited(line)) == 1


def test_a_challenger_that_is_promoted_is_on_trial_no_longer(line: Settings, tmp_path: Path) -> None:
    first, second, third = (sound(line, tmp_path, scale) for scale in (0.1, 0.2, 0.3))
    forced(line, first, "ada")
    set_challenger(line, second, "ben")
    forced(line, third, "ada")
    assert Versions(line).aliases() == {"champion": third, "previous": first, "challenger": second}
    forced(line, "challenger", "ada")
    assert Versions(line).aliases() == {"champion": second, "previous": third}
    assert audited(line)[-1][2:] == (
        {"champion": third, "previous": first, "challenger": second},
        {"champion": second, "previous": third},
    )
    set_challenger(line, "previous", "ben")
    rollback(line, "ada")
    assert Versions(line).aliases() == {"champion": third, "previous": second}


@pytest.fixture
def database(stack: Settings, line: Settings) -> Iterator[Settings]:
    """The test's own model and a database with nothing in it."""
    with database_of_its_own(stack) as settings:
        migrate.upgrade(settings)
        yield settings.model_copy(update={"model_name": line.model_name})


def decided(settings: Settings, rows: list[dict[str, Any]]) -> None:
    names = list(DECISION | rows[0])
    marks = ", ".join(f"%({name})s" for name in names)
    with closing(psycopg2.connect(settings.postgres_dsn)) as connection, connection, connection.cursor() as cursor:
        for row in rows:
            cursor.execute(f"INSERT INTO decisions ({', '.join(names)}) VALUES ({marks})", DECISION | row)


def decision(number: int, champion: str, challenger: str | None, scores: tuple[float, float | None]) -> dict[str, Any]:
    at = datetime(2026, 1, 1 + number % 4, tzinfo=UTC)
    return {
        "id": number * 16 + 1,
        "kafka_offset": number,
        "transaction_id": f"t{number}",
        "user_id": f"u{number % 7}",
        "amount": 10 + number,
        "event_time": at,
        "ingested_at": at,
        "model_version": champion,
        "anomaly_score": scores[0],
        "challenger_version": challenger,
        "challenger_score": scores[1],
    }


def labelled(settings: Settings, labels: list[tuple[str, datetime, bool, str]]) -> None:
    with closing(psycopg2.connect(settings.postgres_dsn)) as connection, connection, connection.cursor() as cursor:
        for label in labels:
            cursor.execute(
                "INSERT INTO labels (transaction_id, label_time, is_fraud, source) VALUES (%s, %s, %s, %s)", label
            )


def test_live_payments_are_compared_whoever_of_the_two_was_champion(database: Settings, tmp_path: Path) -> None:
    first, second = sound(database, tmp_path, 0.1), sound(database, tmp_path, 0.2)
    rows = [decision(n, first, second, (n / 100, 1 - n / 100)) for n in range(60)]
    rows += [decision(n, second, first, (1 - n / 100, n / 100)) for n in range(60, 100)]
    rows += [decision(100, first, None, (1.0, None)), decision(101, first, "9", (1.0, 0.0))]
    decided(database, rows)
    later = NOW - timedelta(days=1)
    frauds = [(name, later, True, "bank") for name in ("t99", "t98", "t0")]
    taken_back = [("t50", later, True, "bank"), ("t50", NOW, False, "bank")]
    labelled(database, [*frauds, *taken_back, ("t0", later, False, "shop"), ("t1", later, False, "bank")])
    done = compare(database, Question(first, second, budget=0.05), NOW)
    assert (done.on, done.payments, done.labelled, done.frauds) == (LIVE, 100, 5, 3)
    assert done.agreement["rank_correlation"] == pytest.approx(-1)
    assert done.agreement["alerts"] == {"a": 5, "b": 5, "both": 0, "overlap": 0.0}
    assert done.agreement["frauds_caught"] == {"a": 2, "b": 1, "both": 0}
    caught = {pair.name: (pair.a, pair.b) for pair in done.metrics}
    assert caught["recall_at_budget"] == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert caught["money_caught_at_budget"][0] == pytest.approx((109 + 108) / (109 + 108 + 10))
    days = live.read(database, first, second, date(2026, 1, 2), date(2026, 1, 3))
    assert days is not None and len(days.payments) == 50
    assert live.read(database, first, second, date(2026, 1, 5), None) is None


def test_without_live_payments_the_days_after_training_are_compared(
    database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = gate_world.rows(0, gate_world.TRAIN_DAYS, 1)
    window = gate_world.rows(gate_world.TRAIN_DAYS, gate_world.WINDOW_DAYS, 2)
    name = data_sets.write(database, gate_world.joined(trained, window))
    last = FIRST_DAY + timedelta(days=gate_world.TRAIN_DAYS - 1)
    good = train(database, name, FIRST_DAY, last, None, "fast", gate_world.SMALL)
    poor = train(database, name, FIRST_DAY, last, None, "isolation_forest", gate_world.SMALL)
    monkeypatch.setenv("VIGIL_HOME", str(database.home))
    for field in ("model_name", "postgres_reader_dsn"):
        monkeypatch.setenv(f"VIGIL_{field.upper()}", getattr(database, field))
    ran = CliRunner().invoke(app, ["compare", poor, good, "--json"])
    assert ran.exit_code == 0, ran.exception
    said = json.loads(ran.stdout)
    assert (said["on"], said["a"], said["b"], said["alert_budget"]) == (f"data set {name}", poor, good, 0.02)
    assert date.fromisoformat(said["from"]) > last
    gains = {pair["name"]: pair["gain"] for pair in said["metrics"]}
    assert {"average_precision", "card_precision_100", "recall_at_1_percent_fpr", "money_caught_at_budget"} <= set(
        gains
    )
    assert gains["average_precision"]["low"] > 0, "the network is better than the forest here"
    assert {part["name"].split(" ")[0] for part in said["slices"]} >= {"earlier", "amount"}
    shown = CliRunner().invoke(app, ["compare", poor, good])
    assert shown.exit_code == 0 and "average precision" in shown.stdout
    with pytest.raises(BadConfiguration, match="trained up to"):
        compare(database, Question(poor, good, name, FIRST_DAY), NOW)
    with pytest.raises(BadConfiguration, match="same version"):
        compare(database, Question(good, "latest" if good > poor else good), NOW)
