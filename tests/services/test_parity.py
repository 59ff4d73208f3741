"""Parity on real decisions and the real log: nothing differs until something is broken, and then it is seen."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from feature_repo import state
from feature_repo.errors import ParityBroken
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import daily, online
from pipelines.cli import app
from pipelines.metrics import LifecycleMetrics
from pipelines.parity import run
from pipelines.parity.run import HISTORY_GONE, NOT_RETAINED, SNAPSHOT_GONE, STATES_REPLACED
from pipelines.replay import replay
from tests.cases.decided import PARTITIONS, Stream
from tests.unit.streams import snapshot_of

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS, MERCHANTS = 9, ("Bakery", "Café № 5", "Garage")
A, B = (snapshot_of(dict.fromkeys(MERCHANTS, row), day) for row, day in (((5, 9, 0.1, 0.2), 1), ((7, 9, 0.4, 0.3), 2)))


def payments(count: int = 90, first: int = 0, seed: int = 1) -> list[dict[str, Any]]:
    """Every tenth behind the time of those before it; one in another currency, one sent twice."""
    random = np.random.default_rng(seed)
    made = [
        {
            "transaction_id": f"p{number}",
            "user_id": f"user {random.integers(USERS)}",
            "amount": round(float(random.lognormal(3, 1)), 2),
            "timestamp": (START + timedelta(hours=number - (20 if number % 10 == 9 else 0))).isoformat(),
            "merchant": MERCHANTS[random.integers(len(MERCHANTS))],
            "location": "Zürich",
            "payment_method": "card",
        }
        for number in range(first, first + count)
    ]
    made[5]["currency"] = "EUR"
    return [*made[:20], made[19], *made[20:]]


@pytest.fixture
def stream(stack: Settings) -> Stream:
    """Both snapshots are kept."""
    online.keep(stack, A)
    online.keep(stack, B)
    return Stream(stack)


def decided(stream: Stream, sent: list[dict[str, Any]], merchants: Snapshot | None = A, pieces: int = 3) -> None:
    """In several ranges, so that states are kept from one to the next."""
    for piece in np.array_split(np.arange(len(sent)), pieces):
        stream.send([sent[row] for row in piece])
        stream.decide(merchants)


def test_nothing_differs_whatever_the_log_holds(stream: Stream) -> None:
    decided(stream, payments())
    decided(stream, payments(first=90, seed=2), B)
    found = run.check(stream.settings)
    assert (found.checked, found.mismatches, found.unchecked) == (178, [], {})
    assert found.mismatch_rate == 0 and found.records_read == 182

    import mlflow

    client = mlflow.MlflowClient(stream.settings.mlflow_url)
    experiment = client.get_experiment_by_name(f"{stream.settings.model_name}-parity")
    (newest, *_) = client.search_runs([experiment.experiment_id], max_results=1)
    assert newest.data.metrics["parity_mismatch_rate"] == 0 and newest.data.metrics["parity_checked"] == 178


def test_a_sample_reads_no_more_than_it_needs_and_is_repeatable(stream: Stream) -> None:
    decided(stream, payments())
    once, again = (run.check(stream.settings, sample=10, seed=3) for _ in range(2))
    assert once == again and 0 < once.checked <= 10


def test_a_late_payment_that_the_state_lost_is_seen(stream: Stream) -> None:
    sent = payments()
    late = next(row for row, one in enumerate(sent) if one["transaction_id"] == "p59")
    user = sent[late]["user_id"]
    decided(stream, sent[:late])
    before = stream.states.records[user]
    stream.send(sent[late : late + 1])
    stream.decide(A)
    stream.states.records[user] = before
    decided(stream, sent[late + 1 :])
    found = run.check(stream.settings)
    assert found.mismatches and {one.logged.user_id for one in found.mismatches} == {user}
    registry = CollectorRegistry()
    with pytest.raises(ParityBroken):
        daily.Checks(LifecycleMetrics(registry)).parity(stream.settings, START.date())
    assert registry.get_sample_value("vigil_parity_mismatched_total") == len(found.mismatches)


def test_a_wrong_snapshot_is_seen(stream: Stream) -> None:
    wrong = Snapshot(B.effective_at, B.merchants, B.values)
    wrong.__dict__["id"] = A.id  # what the batch believed it had
    decided(stream, payments()[:60])
    decided(stream, payments()[60:], wrong)
    found = run.check(stream.settings)
    assert {one.logged.side_inputs for one in found.mismatches} == {A.id}
    assert set(found.mismatches[0].features) == {"merchant_risk_7d", "merchant_risk_30d"}


def test_an_edited_state_record_is_seen(stream: Stream) -> None:
    sent = payments()
    decided(stream, sent[:60])
    user = sent[70]["user_id"]
    record = np.frombuffer(bytearray(stream.states.records[user]), state.STATE_DTYPE)
    record["count"] += 1
    state.seal(record)
    stream.states.records[user] = record.tobytes()
    decided(stream, sent[60:])
    found = run.check(stream.settings)
    assert {one.logged.user_id for one in found.mismatches} == {user}
    assert "history" in found.mismatches[0].features


def history(users: int) -> pa.Table:
    """Of some of the users, from before everything else."""
    rows = [
        {
            **{name: one[name] for name in ("transaction_id", "user_id", "amount", "merchant", "location")},
            "payment_method": "card",
            "event_time": datetime.fromisoformat(one["timestamp"]) - timedelta(days=20),
            "arrival_time": START - timedelta(days=20) + timedelta(hours=number),
        }
        for number, one in enumerate(payments(first=1_000, seed=9))
        if int(one["user_id"].removeprefix("user ")) < users
    ]
    return pa.Table.from_pylist(rows, HISTORY_SCHEMA)


def test_states_that_a_history_seeded_are_recomputed_from_it(stream: Stream) -> None:
    """Over states that were live already, so that users it knows nothing of cannot be recomputed from there on."""
    name = f"seed-{stream.settings.topic}"
    folder = stream.settings.home / "data" / name
    folder.mkdir(parents=True)
    pq.write_table(history(USERS - 2), folder / "history.parquet")
    decided(stream, payments(30))
    replay(stream.settings, name)
    rows = pq.read_table(folder / "states.parquet", columns=["user_id", "state"]).to_pylist()
    stream.states.records.update({row["user_id"]: row["state"] for row in rows})
    online.note_seed(stream.settings, name)
    decided(stream, payments(first=200, seed=4))
    found = run.check(stream.settings)
    assert found.mismatches == [] and found.checked > 0
    assert set(found.unchecked) == {STATES_REPLACED}

    pq.write_table(history(USERS), folder / "history.parquet")
    assert set(run.check(stream.settings).unchecked) == {HISTORY_GONE}

    with closing(psycopg2.connect(stream.settings.postgres_migrator_dsn)) as connection, connection:
        connection.cursor().execute("DELETE FROM audit WHERE subject = %s", (stream.settings.topic,))
    assert run.check(stream.settings).mismatches, "nobody says any more that the states were replaced"


def test_what_kafka_no_longer_holds_is_counted_and_the_rest_checked(stream: Stream) -> None:
    decided(stream, payments(40))
    newcomers = [one | {"user_id": f"new {one['user_id']}"} for one in payments(40, first=40)]
    ends = stream.ledger.positions()
    decided(stream, newcomers)
    decided(stream, payments(40, first=80))
    stream.admin.delete_records(
        [TopicPartition(stream.settings.topic, partition, ends[partition]) for partition in range(PARTITIONS)]
    )[TopicPartition(stream.settings.topic, 0, ends[0])].result(30)
    found = run.check(stream.settings)
    assert found.checked == 39 and found.mismatches == []
    assert set(found.unchecked) == {NOT_RETAINED} and found.unchecked[NOT_RETAINED] > 0


def test_without_its_snapshot_a_decision_cannot_be_checked(stream: Stream) -> None:
    unkept = snapshot_of({"Bakery": (1, 1, 0.0, 0.0)}, 3)
    decided(stream, payments()[:60], unkept)
    decided(stream, payments()[60:])
    found = run.check(stream.settings)
    assert found.mismatches == [] and found.checked > 0
    assert set(found.unchecked) == {SNAPSHOT_GONE}


def test_the_command_tells_and_its_exit_code_says_it(stream: Stream) -> None:
    decided(stream, payments())
    environment = {
        "VIGIL_HOME": str(stream.settings.home),
        "VIGIL_TOPIC": stream.settings.topic,
        "VIGIL_PARTITIONS": str(PARTITIONS),
    }
    fine = CliRunner().invoke(app, ["parity", "--json"], env=environment)
    assert fine.exit_code == 0 and '"mismatched": 0' in fine.stdout
    with closing(psycopg2.connect(stream.settings.postgres_migrator_dsn)) as connection, connection:
        connection.cursor().execute(
            "UPDATE decisions SET features = set_byte(features, 0, 255 - get_byte(features, 0))"
            " WHERE kafka_topic = %s AND transaction_id = 'p7'", (stream.settings.topic,)
        )  # fmt: skip
    broken = CliRunner().invoke(app, ["parity", "--json"], env=environment)
    assert isinstance(broken.exception, ParityBroken) and '"mismatched": 1' in broken.stdout
