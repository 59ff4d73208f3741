"""Live decisions as a data set: what was decided and logged, and nothing else, ready for training."""

import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import BadConfiguration
from feature_repo.features import NAMES
from feature_repo.settings import Settings
from pipelines import live, quality
from pipelines.replay import replay
from streaming.rows import DECISION_COLUMNS
from tests.cases.decided import Stream
from training.data import load_training_set

START = datetime(2026, 3, 1, tzinfo=UTC)
ODD = 'Corner "Café", № 5; \\second floor'


def payment(number: int, **other: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "user_id": f"user_{number % 7}",
        "amount": 10.0 + number / 100,
        "timestamp": (START + timedelta(hours=number)).isoformat(),
        "merchant": ODD if number % 3 else "Bakery",
        "location": "Zürich, CH" if number % 2 else "NA",
        "payment_method": "card",
        **other,
    }


@pytest.fixture(scope="module")
def stream(stack: Settings) -> Stream:
    """Three days of payments, a repeat among them, one in another currency, one not scored and then scored late."""
    stream = Stream(stack)
    payments = [payment(number) for number in range(72)]
    payments.insert(40, payments[39])
    payments.append(payment(72, currency="EUR", timestamp=(START + timedelta(hours=71)).isoformat()))
    stream.send(payments[:30])
    stream.decide()
    stream.send(payments[30:60])
    stream.decide(pin=None)
    stream.send(payments[60:])
    stream.decide()
    return stream


def export(stream: Stream, *days: int) -> live.Exported:
    return live.export(stream.settings, stream.settings.topic, *(START.date() + timedelta(days=day) for day in days))


def test_every_decided_payment_is_there_once_with_the_vector_that_was_logged(stream: Stream) -> None:
    done = export(stream)
    folder = stream.settings.home / "data" / done.name
    history, features = (pq.read_table(folder / f"{name}.parquet") for name in ("history", "features"))
    assert (done.payments, done.vectors, done.without_vector, done.repeated_ids) == (73, 72, 1, 0)
    assert sorted(history["transaction_id"].to_pylist()) == sorted(f"t{number}" for number in range(73))
    one = history.filter(np.array(history["transaction_id"].to_pylist()) == "t7").to_pylist()[0]
    assert (one["merchant"], one["amount"], one["event_time"]) == (ODD, 10.07, START + timedelta(hours=7))
    arrivals = history["arrival_time"].to_pylist()
    assert arrivals == sorted(arrivals)
    with closing(psycopg2.connect(stream.settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT transaction_id, features FROM decisions WHERE kafka_topic = %s AND features IS NOT NULL",
                       (stream.settings.topic,))  # fmt: skip
        logged = {name: bytes(vector) for name, vector in cursor}
    x = np.stack([features[name].to_numpy() for name in NAMES], axis=1)
    assert {name: row.tobytes() for name, row in zip(features["transaction_id"].to_pylist(), x, strict=True)} == logged


def test_it_can_be_validated_and_trained_on_like_any_other(stream: Stream) -> None:
    done = export(stream, 1, 2)
    failures = quality.validate(stream.settings, done.name).failures
    assert [failure.partition(":")[0] for failure in failures] == ["rows_enough"], "it holds two days only"
    rows = load_training_set(
        stream.settings, done.name, START.date() + timedelta(days=1), START.date() + timedelta(days=2)
    )
    assert len(rows) == 48 and rows.without_features == 1
    with pytest.raises(BadConfiguration, match="no payment from"):
        load_training_set(stream.settings, done.name, START.date(), START.date())


def test_the_newest_revision_counts(stream: Stream) -> None:
    """A late score is another row of the same payment."""
    columns = [name for name in DECISION_COLUMNS if name not in ("id", "revision", "outcome", "unscored_reason")]
    text = ", ".join(columns)
    with (
        closing(psycopg2.connect(stream.settings.postgres_dsn)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            f"INSERT INTO decisions (id, revision, outcome, {text}) SELECT id + 1, 2, 'scored', {text} FROM decisions"
            " WHERE kafka_topic = %s AND outcome = 'unscored' AND features IS NOT NULL", (stream.settings.topic,)
        )  # fmt: skip
        assert cursor.rowcount == 29
    done = export(stream)
    assert (done.payments, done.vectors) == (73, 72)


def test_a_late_payment_of_a_window_does_not_change_what_was_trained_on(stack: Settings) -> None:
    other, days = Stream(stack), (START.date(), START.date() + timedelta(days=1))
    other.send([payment(number) for number in range(48)])
    other.decide()
    trained = load_training_set(stack, export(other).name, *days)
    late = START + timedelta(hours=5)
    other.send([payment(100, timestamp=late.isoformat())])
    other.decide()
    name = export(other).name
    again = load_training_set(stack, name, *days, arrived_by=trained.payments_arrived)
    assert again.sha256() == trained.sha256()
    assert len(load_training_set(stack, name, *days)) == 49


def test_vectors_of_another_catalogue_are_left_out_and_counted(stream: Stream, stack: Settings) -> None:
    """The job that decided the second day did not know the last feature."""
    other = Stream(stack)
    other.send([payment(number) for number in range(24)])
    other.decide()
    done = export(other)
    assert done.vectors == 24
    with (
        closing(psycopg2.connect(stack.postgres_migrator_dsn)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE ledger_ranges SET feature_names = feature_names[1:3] WHERE kafka_topic = %s"
                       " AND kafka_partition = 0", (other.settings.topic,))  # fmt: skip
    older = export(other)
    assert older.payments == 24 and 0 < older.of_other_features == 24 - older.vectors


def test_an_export_is_replaced_in_one_step_and_the_old_one_goes_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen, remove = tmp_path / "live", list[str](), shutil.rmtree

    def removed(path: Path, **options: Any) -> None:
        seen.append((folder / "export.json").read_text())
        remove(path, **options)

    monkeypatch.setattr(live.shutil, "rmtree", removed)
    folder.mkdir()  # as an older release left it
    for number in range(3):
        made = tmp_path / f".live.{number}"
        made.mkdir()
        (made / "export.json").write_text(str(number))
        live._switch(folder, made)
    assert seen == ["0", "1", "2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".live.2", "live"]


def test_it_is_not_replayed(stream: Stream) -> None:
    done = export(stream)
    with pytest.raises(BadConfiguration, match="the stream logged"):
        replay(stream.settings, done.name)


def test_what_cannot_be_exported_is_said(stream: Stream) -> None:
    with pytest.raises(BadConfiguration, match="no payment of these days"):
        export(stream, -9, -8)
    with pytest.raises(BadConfiguration, match="before it begins"):
        export(stream, 2, 1)
    imported = stream.settings.home / "data" / "somebodys"
    imported.mkdir(parents=True, exist_ok=True)
    (imported / "history.parquet").touch()
    with pytest.raises(BadConfiguration, match="another kind"):
        live.export(stream.settings, "somebodys")
