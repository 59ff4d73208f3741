"""The lifecycle worker on real servers: requests by command and by HTTP, restarts in the middle, labels."""

import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from api.app import create_app
from feature_repo.errors import BadConfiguration, DependencyDown, PromotionRefused
from feature_repo.labels import TOPIC as LABELS
from feature_repo.settings import Settings
from pipelines import labels, lifecycle, requests
from pipelines.metrics import LifecycleMetrics
from pipelines.promote import ask, promote, rollback, work
from pipelines.requests import ROLLBACK, THRESHOLD, Asked
from pipelines.versions import Versions
from tests.cases import data_sets, gate_world
from tests.cases.model_service import running
from tests.cases.tables import FIRST_DAY
from tests.live import environment
from tests.services.test_models import UNTRAINED, publish, sound, with_nan_weights
from training.train import train

WAIT_S = 90.0


@pytest.fixture
def line(stack: Settings) -> Settings:
    """Settings with a registered model of the test's own."""
    return stack.model_copy(update={"model_name": f"line-{uuid.uuid4().hex[:8]}"})


def eventually(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
    return value


def rows(settings: Settings, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


@contextmanager
def worker(settings: Settings, registry: CollectorRegistry | None = None) -> Iterator[None]:
    """A lifecycle worker without daily jobs in this process, known to others once it runs."""
    stop = threading.Event()
    metrics = LifecycleMetrics(registry or CollectorRegistry())
    thread = threading.Thread(target=lifecycle.run, args=(settings, stop, metrics, ()))
    thread.start()
    try:
        with requests.connected(settings) as connection:
            eventually(lambda: requests.worker_runs(connection, settings.model_name))
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_a_command_waits_for_the_worker_where_one_runs(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    with worker(line):
        assert promote(line, first, "ada", override=UNTRAINED).changed
        assert promote(line, second, "ada", override=UNTRAINED).previous == first
        assert rollback(line, "ben").version == first
        with pytest.raises(requests.RequestFailed) as refused:
            promote(line, second, "ada", data="no-such-data")
        assert refused.value.code == "BAD_CONFIGURATION"
    assert Versions(line).aliases() == {"champion": first, "previous": second}
    asked = rows(line, "SELECT id, actor, outcome FROM promotion_requests WHERE model_name = %s ORDER BY id",
                 line.model_name)  # fmt: skip
    assert [row[1:] for row in asked] == [
        ("ada", "moved"),
        ("ada", "moved"),
        ("ben", "moved"),
        ("ada", "failed"),
    ]
    audited = rows(line, "SELECT request_id FROM audit WHERE subject = %s ORDER BY id", line.model_name)
    assert audited == [(row[0],) for row in asked[:3]]


def test_without_evidence_a_version_is_refused_and_the_report_kept(line: Settings, tmp_path: Path) -> None:
    version = sound(line, tmp_path)
    with pytest.raises(BadConfiguration, match="no data set"):
        promote(line, version, "ada", data="no-such-data")
    done = promote(line, version, "ada", override=UNTRAINED, data="no-such-data")
    ((report, override),) = rows(line, "SELECT report, override FROM promotion_requests WHERE id = %s", done.request)
    assert override == UNTRAINED
    assert [check["name"] for check in report["checks"] if check["passed"] is False] == ["INSUFFICIENT_EVIDENCE"]
    import mlflow

    run_id = Versions(line).run_of(version)
    kept = {file.path for file in mlflow.MlflowClient(line.mlflow_url).list_artifacts(run_id, "gate")}
    assert kept == {"gate/gate.json", "gate/gate.html"}


def test_a_version_better_than_what_is_simple_passes_the_gate_on_a_data_set(
    line: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole gate: both windows through Feast, the training data's hash, baselines, report."""
    monkeypatch.setattr("pipelines.quality.require_valid", lambda settings, name: None)  # not a whole history
    trained = gate_world.rows(0, gate_world.TRAIN_DAYS, 1)
    window = gate_world.rows(gate_world.TRAIN_DAYS, gate_world.WINDOW_DAYS, 2)
    name = data_sets.write(line, gate_world.joined(trained, window))
    last = FIRST_DAY + timedelta(days=gate_world.TRAIN_DAYS - 1)
    version = train(line, name, FIRST_DAY, last, None, "fast", gate_world.SMALL)
    done = promote(line, version, "ada", data=name)
    ((report,),) = rows(line, "SELECT report FROM promotion_requests WHERE id = %s", done.request)
    outcomes = {check["name"]: check["passed"] for check in report["checks"]}
    assert outcomes["training_data"] and outcomes["column_order"] and outcomes["mahalanobis"]
    assert (report["route"], report["window"]["days"], report["attempts"]) == ("first", gate_world.WINDOW_DAYS, 1)
    again = train(line, name, FIRST_DAY, last, None, "fast", [*gate_world.SMALL, "seed=8"])
    with pytest.raises(PromotionRefused) as refused:
        promote(line, again, "ada", data=name)
    assert [failure.split(" ")[0] for failure in refused.value.failures] == ["improvement"]
    assert refused.value.report["attempts"] == 2  # type: ignore[attr-defined]  # the gate's own refusal has it


def test_a_request_whose_worker_died_is_taken_again_and_moves_once(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    promote(line, first, "ada", override=UNTRAINED)
    with requests.connected(line) as connection:
        request_id = requests.add(connection, line.model_name, Asked("promote", "ada", second, "none", UNTRAINED))
    # A worker that began, noted the aliases, moved them and died before it could say so.
    with requests.connected(line) as dying:
        assert requests.begin(dying, line.model_name, request_id) == request_id
        requests.note(dying, request_id, Versions(line).aliases())
        cursor = dying.cursor()
        assert requests.lock(cursor, request_id) is not None
        with requests.connected(line) as other:
            assert requests.begin(other, line.model_name) is None, "its row is locked"
        Versions(line).point("previous", first)
        Versions(line).point("champion", second)
    with worker(line), requests.connected(line) as connection:
        request = eventually(lambda: _finished(connection, request_id))
    assert (request.outcome, request.tries) == ("moved", 2)
    assert request.aliases_after == {"champion": second, "previous": first} == Versions(line).aliases()
    moves = rows(line, "SELECT before, after FROM audit WHERE request_id = %s", request_id)
    assert moves == [({"champion": first}, {"champion": second, "previous": first})]


def test_who_loses_the_race_for_a_request_counts_no_try(line: Settings, tmp_path: Path) -> None:
    version = sound(line, tmp_path)
    with requests.connected(line) as one, requests.connected(line) as other:
        request_id = requests.add(one, line.model_name, Asked("promote", "ada", version, "none", UNTRAINED))
        assert requests.begin(one, line.model_name) == request_id
        for _ in range(requests.MAX_TRIES + 1):
            assert requests.begin(other, line.model_name) is None
        assert work(line, one, request_id) is None
        assert requests.read(other, request_id).tries == 1


def test_an_alias_that_moved_though_the_call_failed_has_moved(
    line: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, move = sound(line, tmp_path), Versions.point

    def moved_but_timed_out(versions: Versions, alias: str, to: str) -> None:
        move(versions, alias, to)
        raise DependencyDown("MLflow", line.mlflow_url, "timed out")

    monkeypatch.setattr(Versions, "point", moved_but_timed_out)
    assert promote(line, version, "ada", override=UNTRAINED).changed
    assert rows(line, "SELECT outcome FROM promotion_requests WHERE model_name = %s", line.model_name) == [("moved",)]


def _finished(connection: requests.Connection, request_id: int) -> requests.Request | None:
    request = requests.read(connection, request_id)
    return request if request.outcome else None


def test_a_request_that_kills_its_workers_is_given_up(line: Settings, tmp_path: Path) -> None:
    version = sound(line, tmp_path)
    with requests.connected(line) as connection:
        request_id = requests.add(connection, line.model_name, Asked("promote", "ada", version, "none", UNTRAINED))
        for _ in range(requests.MAX_TRIES + 1):
            requests.begin(connection, line.model_name, request_id)
        assert work(line, connection, request_id) is not None
        request = requests.read(connection, request_id)
    assert (request.outcome, request.code) == ("failed", "INTERNAL")
    assert Versions(line).aliases() == {}


def test_a_rollback_without_a_previous_champion_is_refused(line: Settings, tmp_path: Path) -> None:
    sound(line, tmp_path)
    with pytest.raises(BadConfiguration, match="no previous champion"):
        ask(line, Asked(ROLLBACK, "ada"))


def test_an_unsound_version_is_refused_whatever_the_reason(line: Settings, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    tags = with_nan_weights(file)
    with pytest.raises(PromotionRefused) as refused:
        promote(line, publish(line, file, tags), "ada", override="we are in a hurry")
    assert [failure.split(" ")[0] for failure in refused.value.failures] == ["weights"]


# ---- over HTTP ------------------------------------------------------------------------------------------


def test_promotion_and_rollback_over_http(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    with running(create_app(line)) as url, httpx.Client(base_url=url, timeout=30) as api, worker(line):

        def done(response: httpx.Response) -> dict[str, Any]:
            assert response.status_code == 202, response.text
            state: dict[str, Any] = eventually(
                lambda: (body := api.get(response.json()["url"]).json())["state"] == "finished" and body
            )
            return state

        for version in (first, second):
            answer = done(api.post(f"/models/{version}/promote", json={"override": UNTRAINED}))
            assert (answer["outcome"], answer["version"], answer["actor"]) == ("moved", version, "api")
        listed = api.get("/models").json()
        assert listed["aliases"] == {"champion": second, "previous": first}
        assert [one["version"] for one in listed["versions"]] == [second, first]
        assert listed["versions"][0]["gate"]["failed"] == ["INSUFFICIENT_EVIDENCE"]
        assert done(api.post("/models/rollback", json={}))["version"] == first
        refused = done(api.post(f"/models/{second}/promote", json={"data": "no-such-data"}))
        assert (refused["outcome"], refused["code"]) == ("failed", "BAD_CONFIGURATION")
        for response, code in (
            (api.post("/models/77/promote", json={}), "VERSION_UNKNOWN"),
            (api.get("/models/requests/999999999"), "REQUEST_UNKNOWN"),
            (api.post(f"/models/{first}/promote", json={"force": True}), "PARAMETER_UNKNOWN"),
            (api.get("/models/requests/zero"), "PARAMETER_INVALID"),
        ):
            assert response.json()["code"] == code


def test_a_challenger_is_named_and_let_go_over_http(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    file = tmp_path / "model.onnx"
    spoilt = publish(line, file, with_nan_weights(file))
    promote(line, first, "ada", override=UNTRAINED)
    registry = CollectorRegistry()
    with running(create_app(line)) as url, httpx.Client(base_url=url, timeout=30) as api, worker(line, registry):

        def asked(path: str) -> tuple[Any, ...]:
            response = api.post(path, json={})
            assert response.status_code == 202, response.text
            done = eventually(lambda: (body := api.get(response.json()["url"]).json())["state"] == "finished" and body)
            assert done["action"] == "challenger" and done["actor"] == "api"
            return done["version"], done["outcome"], done["code"], (done["aliases_after"] or {}).get("challenger")

        assert asked(f"/models/{second}/challenge") == (second, "moved", None, second)
        assert asked("/models/challenger/challenge") == (second, "unchanged", None, second)
        assert asked(f"/models/{spoilt}/challenge") == (spoilt, "refused", "PROMOTION_REFUSED", None)
        assert asked("/models/champion/challenge") == (first, "failed", "BAD_CONFIGURATION", None)
        assert api.get("/models").json()["aliases"] == {"champion": first, "challenger": second}
        assert asked("/models/end-challenge") == (None, "moved", None, None)
        assert asked("/models/end-challenge") == (None, "unchanged", None, None)
        assert api.post("/models/77/challenge", json={}).json()["code"] == "VERSION_UNKNOWN"
    assert Versions(line).aliases() == {"champion": first}
    found = rows(
        line,
        "SELECT a.after ->> 'challenger', r.action, r.outcome"
        " FROM audit a JOIN promotion_requests r ON r.id = request_id"
        " WHERE subject = %s AND a.action = 'challenger' ORDER BY a.id",
        line.model_name,
    )
    assert found == [(second, "challenger", "moved"), (None, "challenger", "moved")]
    counted = {"action": "challenger", "outcome": "moved"}
    assert registry.get_sample_value("vigil_lifecycle_requests_total", counted) == 2


def test_a_trial_whose_worker_died_before_its_audit_row_gets_it(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    promote(line, first, "ada", override=UNTRAINED)
    with requests.connected(line) as connection:
        request_id = requests.add(connection, line.model_name, Asked(requests.CHALLENGE, "ben", second))
    with requests.connected(line) as dying:
        assert requests.begin(dying, line.model_name, request_id) == request_id
        requests.note(dying, request_id, Versions(line).aliases())
        Versions(line).point("challenger", second)
    with requests.connected(line) as connection:
        assert requests.begin(connection, line.model_name, request_id) == request_id
        assert work(line, connection, request_id) is None
        assert requests.read(connection, request_id).outcome == "moved"
    found = rows(line, "SELECT actor, before, after FROM audit WHERE request_id = %s", request_id)
    assert found == [("ben", {"champion": first}, {"champion": first, "challenger": second})]


def test_a_budget_brings_no_version_past_the_gate(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    promote(line, first, "ada", override=UNTRAINED)
    with pytest.raises(BadConfiguration, match="not the champion"):
        ask(line, Asked(THRESHOLD, "ada", version=second, alert_budget=0.01))


def test_what_was_interrupted_is_not_done_later(
    line: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = sound(line, tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipelines.gate.run.judged", interrupted)
        promote(line, version, "ada", override=UNTRAINED)
    ((outcome, code),) = rows(
        line, "SELECT outcome, code FROM promotion_requests WHERE model_name = %s", line.model_name
    )
    assert (outcome, code) == ("failed", "CANCELLED")


def test_a_label_over_http_is_stored_once(line: Settings) -> None:
    label = {"transaction_id": f"tx-{uuid.uuid4().hex}", "is_fraud": True, "label_time": "2026-01-01T00:00:00Z"}
    with running(create_app(line)) as url, httpx.Client(base_url=url, timeout=30) as api:
        assert api.post("/labels", json=label).json() == {"transaction_id": label["transaction_id"], "new": True}
        assert api.post("/labels", json=label).json()["new"] is False
        refused = api.post("/labels", json={**label, "is_fraud": "perhaps"})
        assert (refused.status_code, refused.json()["code"]) == (422, "TYPE")
    assert rows(line, "SELECT is_fraud, source FROM labels WHERE transaction_id = %s", label["transaction_id"]) == [
        (True, "unnamed")
    ]


# ---- labels by topic and file -----------------------------------------------------------------------------


def test_labels_of_the_topic_are_stored_once_and_bad_ones_are_dead_letters(line: Settings) -> None:
    ids = [f"tx-{uuid.uuid4().hex}" for _ in range(3)]
    producer = Producer({"bootstrap.servers": line.kafka_bootstrap})
    for transaction_id in [*ids, ids[0]]:
        label = {"transaction_id": transaction_id, "is_fraud": True, "label_time": "2026-01-01T00:00:00Z"}
        producer.produce(LABELS, json.dumps(label).encode(), key=transaction_id)
    marker = "".join(random.choices("abcdefghij", k=24))  # digits could pass for a card number, and be masked
    producer.produce(LABELS, json.dumps({"transaction_id": marker, "is_fraud": 1}).encode())
    producer.flush(30)

    def consumed(group: str) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=labels.consume, args=(line, stop, group))
        thread.start()
        count = "SELECT count(*) FROM labels WHERE transaction_id = ANY(%s)"
        eventually(lambda: rows(line, count, ids) == [(3,)] and rows(line, letters, f"%{marker}%"))
        time.sleep(2)
        stop.set()
        thread.join(WAIT_S)

    letters = "SELECT code FROM dead_letters WHERE kafka_topic = 'labels' AND convert_from(payload, 'UTF8') LIKE %s"
    for group in (uuid.uuid4().hex, uuid.uuid4().hex):  # another group reads everything again
        consumed(group)
    assert rows(line, "SELECT count(*) FROM labels WHERE transaction_id = ANY(%s)", ids) == [(3,)]
    assert rows(line, letters, f"%{marker}%") == [("FIELD_MISSING",)]


def test_labels_of_a_file_are_imported_by_the_command(line: Settings, tmp_path: Path) -> None:
    prefix = uuid.uuid4().hex
    file = tmp_path / "chargebacks.csv"
    now = datetime.now(UTC).isoformat()
    file.write_text(
        f"transaction_id,is_fraud,label_time\n{prefix}-1,true,{now}\n{prefix}-2,false,{now}\n{prefix}-3,true,soon\n"
    )

    def imported() -> dict[str, Any]:
        command = [sys.executable, "-m", "pipelines.cli", "labels", "import", str(file), "--json"]
        done = subprocess.run(command, env=environment(line), capture_output=True, text=True, timeout=120, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert imported() == {"rows": 3, "new": 2, "refused": {"TIME_FORMAT": 1}}
    assert imported()["new"] == 0
    found = rows(line, "SELECT is_fraud, source FROM labels WHERE transaction_id LIKE %s ORDER BY transaction_id",
                 f"{prefix}%")  # fmt: skip
    assert found == [(True, file.name), (False, file.name)]
