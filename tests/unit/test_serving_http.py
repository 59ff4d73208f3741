"""The model service's port: what passes the gate, and what each bad request hears."""

import json
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from feature_repo.errors import DependencyDown
from feature_repo.features import CATALOGUE, NAMES
from feature_repo.parser import SAMPLE
from feature_repo.problem import MEDIA_TYPE
from serving.client import BINARY, ModelClient
from serving.endpoints import DETECTIONS
from serving.gate import RULES
from serving.source import CHALLENGER
from serving.wire import SCORED
from serving.worker import Worker
from tests.cases.model_service import FolderSource, MemoryStates, listening, settings_for, worker_for
from tests.cases.tiny_model import COLUMNS

# Code that compiles in the background holds the interpreter for seconds at a time.
get = partial(httpx.get, timeout=60)
post = partial(httpx.post, timeout=60)

LIMIT = 100
WIDTH = len(COLUMNS)
X = np.linspace(0, 2, 5 * WIDTH, dtype="<f4").reshape(5, WIDTH)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    source = FolderSource(tmp_path_factory.mktemp("published"))
    source.publish("1")
    return source


@pytest.fixture(scope="module")
def worker(source: FolderSource, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    settings = settings_for(tmp_path_factory.mktemp("home"), max_score_rows=LIMIT)
    return worker_for(settings, source, MemoryStates())


@pytest.fixture(scope="module")
def url(worker: Worker) -> Iterator[str]:
    with listening(worker) as url:
        wait(lambda: get(f"{url}/models").status_code == 200)
        yield url


@pytest.fixture
def headers(worker: Worker) -> dict[str, str]:
    manifest = worker.registry.held.get().manifest
    return {"Content-Type": BINARY, "X-Vigil-Feature-Set": manifest.feature_set_id}


def wait(ready: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refused(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The problem of a refusal, whose form is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    body: dict[str, object] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert {"title", "detail", "errors"} <= body.keys()
    return body


def test_scores_name_version_features_and_artefact(url: str, headers: dict[str, str], worker: Worker) -> None:
    response = post(f"{url}/score", content=X.tobytes(), headers=headers)
    model = worker.registry.held.get()
    assert response.status_code == 200
    assert response.headers["content-type"] == BINARY
    assert response.headers["X-Vigil-Model-Version"] == model.version
    assert response.headers["X-Vigil-Feature-Set"] == model.manifest.feature_set_id
    assert response.headers["X-Vigil-Artifact-Sha256"] == model.sha256
    scored = np.frombuffer(response.content, SCORED)
    np.testing.assert_allclose(scored["score"], 1 - np.exp(-0.1 * np.abs(X).sum(axis=1)), rtol=1e-4)


def test_the_client_reads_what_the_service_writes(url: str, worker: Worker) -> None:
    with ModelClient(url, timeout_s=60) as client:
        models = client.models()
        champion = models.get(models.champion)
        assert champion.columns == COLUMNS
        assert champion.threshold == worker.registry.held.get().manifest.threshold
        assert len(client.score(X, champion.version, champion.feature_set_id)) == len(X)


def test_no_rows_give_no_scores(url: str, headers: dict[str, str]) -> None:
    response = post(f"{url}/score", content=b"", headers=headers)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("offered", [None, "", "fs_0000000000000000"])
def test_columns_of_another_feature_set_are_refused(url: str, headers: dict[str, str], offered: str | None) -> None:
    del headers["X-Vigil-Feature-Set"]
    if offered is not None:
        headers["X-Vigil-Feature-Set"] = offered
    refused(post(f"{url}/score", content=X.tobytes(), headers=headers), 422, "FEATURE_SET_MISMATCH")


@pytest.mark.parametrize("columns", [WIDTH - 1, WIDTH + 1])
def test_a_missing_or_extra_column_is_refused(url: str, headers: dict[str, str], columns: int) -> None:
    body = np.zeros((5, columns), "<f4").tobytes()
    refused(post(f"{url}/score", content=body, headers=headers), 422, "FEATURE_SET_MISMATCH")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_by_row_and_column(url: str, headers: dict[str, str], value: float) -> None:
    bad = X.copy()
    bad[3, 2] = value
    body = refused(post(f"{url}/score", content=bad.tobytes(), headers=headers), 422, "FEATURE_INVALID")
    assert (body["row"], body["column"]) == (3, COLUMNS[2])
    assert body["errors"] == [{"loc": ["body", 3, COLUMNS[2]], "code": "FEATURE_INVALID"}]


@pytest.mark.parametrize("streamed", [False, True])
def test_more_rows_than_the_limit_are_refused(url: str, headers: dict[str, str], streamed: bool) -> None:
    body = np.zeros((LIMIT + 1, WIDTH), "<f4").tobytes()
    content = iter([body[:100], body[100:]]) if streamed else body
    answer = refused(post(f"{url}/score", content=content, headers=headers), 413, "BATCH_TOO_LARGE")
    assert answer["limit"] == LIMIT
    full = post(f"{url}/score", content=body[: LIMIT * WIDTH * 4], headers=headers)
    assert len(full.content) == LIMIT * SCORED.itemsize


def test_a_version_that_is_not_loaded_is_refused_with_those_that_are(url: str, headers: dict[str, str]) -> None:
    response = post(f"{url}/score", content=X.tobytes(), headers={**headers, "X-Vigil-Model-Version": "99"})
    body = refused(response, 409, "MODEL_VERSION_MISMATCH")
    assert (body["asked"], body["loaded"]) == ("99", ["1"])


FOREIGN = ("application/vnd.bentoml+pickle", "application/x-pickle", "multipart/form-data; boundary=x", "text/plain")


@pytest.mark.parametrize("path", [*RULES, "/", "/schema.json", "/docs.json", "/static_content/x", "/anything"])
def test_no_path_takes_another_content_type(url: str, path: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as http:
        for method in ("POST", "GET", "PUT"):
            for content_type in FOREIGN:
                content, headers = pickle.dumps({}), {"Content-Type": content_type}
                response = http.request(method, path, content=content, headers=headers)
                refused(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("path", ["/score", "/detect"])
def test_a_body_without_content_type_is_refused(url: str, path: str) -> None:
    refused(post(url + path, content=b"{}"), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("path", ["/", "/schema.json", "/docs.json", "/anything", "/score/"])
def test_paths_that_are_not_ours_are_unknown(url: str, path: str) -> None:
    refused(get(url + path), 404, "NOT_FOUND")


def test_another_method_hears_which_one_is_right(url: str) -> None:
    response = get(f"{url}/score")
    refused(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"


def test_a_usable_request_id_is_kept_and_another_is_replaced(url: str) -> None:
    assert get(f"{url}/live", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    given = "x" * 65
    assert get(f"{url}/live", headers={"X-Request-ID": given}).headers["X-Request-ID"] != given


def test_who_waits_for_a_payment_to_be_recorded_keeps_nobody_else_waiting(
    url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged, waiting = threading.Event(), threading.Semaphore(0)

    def record(user_id: str, payload: bytes) -> str:
        waiting.release()
        acknowledged.wait(60)
        return "transactions-0-1"

    monkeypatch.setattr(worker.detector, "detect", lambda payload: {"user_id": "u"})
    monkeypatch.setattr(worker, "record", record)
    with ThreadPoolExecutor() as pool:
        recorded = [pool.submit(post, f"{url}/detect?record=true", json={}) for _ in range(DETECTIONS + 1)]
        try:
            assert all(waiting.acquire(timeout=60) for _ in recorded)
            assert post(f"{url}/detect", json={}).json() == {"user_id": "u"}
        finally:
            acknowledged.set()
        assert [answer.result().json()["recorded_as"] for answer in recorded] == ["transactions-0-1"] * len(recorded)


def test_what_is_recorded_is_the_payment_as_it_came(url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, bytes]] = []

    def record(user_id: str, payload: bytes) -> str:
        taken.append((user_id, payload))
        return "transactions-0-7"

    monkeypatch.setattr(worker, "record", record)
    content, headers = b" " + SAMPLE, {"Content-Type": "application/json"}
    assert "recorded_as" not in post(f"{url}/detect", content=content, headers=headers).json()
    assert taken == []
    answer = post(f"{url}/detect?record=true", content=content, headers=headers)
    assert (answer.json()["recorded_as"], taken) == ("transactions-0-7", [("user_789", content)])


def test_a_payment_that_was_not_recorded_gets_no_decision(
    url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(user_id: str, payload: bytes) -> str:
        raise DependencyDown("Kafka", "here", "switched off by the test")

    monkeypatch.setattr(worker, "record", record)
    content, headers = SAMPLE, {"Content-Type": "application/json"}
    refused(post(f"{url}/detect?record=true", content=content, headers=headers), 503, "DEPENDENCY_DOWN")


def test_record_is_true_or_false(url: str) -> None:
    refused(post(f"{url}/detect?record=perhaps", json={}), 422, "PARAMETER_INVALID")


def test_a_payment_over_the_limit_is_refused_whatever_is_in_it(url: str) -> None:
    response = post(f"{url}/detect", content=b" " * 70_000, headers={"Content-Type": "application/json"})
    refused(response, 413, "TOO_LARGE")


def test_metrics_count_rows_by_version(url: str, headers: dict[str, str]) -> None:
    post(f"{url}/score", content=X.tobytes(), headers=headers)
    wait(lambda: "vigil_serving_champion 1.0" in get(f"{url}/metrics").text)
    assert 'vigil_score_rows_total{model_version="1"}' in get(f"{url}/metrics").text


def test_moving_the_alias_changes_the_served_model(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    with listening(worker_for(settings_for(tmp_path / "home"), source, MemoryStates())) as url:
        body = refused(get(f"{url}/models"), 503, "MODEL_LOADING")
        assert "champion" in str(body["detail"])
        refused(get(f"{url}/ready"), 503, "MODEL_LOADING")
        assert get(f"{url}/live").status_code == 200
        source.publish("1")
        wait(lambda: get(f"{url}/models").status_code == 200)
        source.publish("2", scale=0.2)
        wait(lambda: get(f"{url}/models").json()["champion"] == "2")
        assert [model["version"] for model in get(f"{url}/models").json()["loaded"]] == ["2", "1"]


def test_a_refused_champion_is_told_by_ready(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    source.publish("1")
    with listening(worker_for(settings_for(tmp_path / "home"), source, MemoryStates())) as url:
        wait(lambda: get(f"{url}/models").status_code == 200)
        source.publish("2", scale=0.2, spoilt=True)
        wait(lambda: get(f"{url}/ready").json()["refused"] is not None)
        assert get(f"{url}/models").json()["champion"] == "1"
        answer = get(f"{url}/ready")
        assert answer.json()["refused"] == {"version": "2", "code": "ARTIFACT_CORRUPT"}
        wait(lambda: "vigil_serving_champion_refused 1.0" in get(f"{url}/metrics").text)


def test_a_challenger_with_another_feature_scores_beside_the_champion(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    source.publish("1")
    wider = (*COLUMNS, "rate_7d")
    with listening(worker_for(settings_for(tmp_path / "home"), source, MemoryStates())) as url:
        wait(lambda: get(f"{url}/models").status_code == 200)
        assert get(f"{url}/models").json()["challenger"] is None
        source.publish("2", scale=0.2, alias=CHALLENGER, columns=wider)
        wait(lambda: get(f"{url}/models").json()["challenger"] == "2")
        with ModelClient(url, timeout_s=60) as client:
            models = client.models()
            for version, columns in ((models.champion, COLUMNS), (models.challenger, wider)):
                model = models.get(str(version))
                assert model.columns == columns
                assert len(client.score(np.ones((3, len(columns)), "<f4"), model.version, model.feature_set_id)) == 3
        source.publish("3", scale=0.3, alias=CHALLENGER, spoilt=True)
        wait(lambda: get(f"{url}/ready").json()["challenger_refused"] is not None)
        answer = get(f"{url}/ready")
        assert (answer.status_code, answer.json()["refused"]) == (200, None)
        assert answer.json()["challenger_refused"] == {"version": "3", "code": "ARTIFACT_CORRUPT"}
        assert get(f"{url}/models").json()["champion"] == "1"
        wait(lambda: "vigil_serving_challenger_refused 1.0" in get(f"{url}/metrics").text)


def test_an_unexpected_error_is_a_problem_without_its_text(
    url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("4111 1111 1111 1111")

    monkeypatch.setattr(worker.detector, "detect", fail)
    response = post(f"{url}/detect", json={})
    refused(response, 500, "INTERNAL")
    assert "4111" not in json.dumps(response.json())


def question(worker: Worker, **changes: object) -> dict[str, object]:
    manifest = worker.registry.held.get().manifest
    features = dict.fromkeys(NAMES, 0.5)
    asked = {"model_version": "1", "feature_set_id": manifest.feature_set_id, "features": features, "reasons": REASONS}
    return {**asked, **changes}


REASONS = ["unusual_amount_for_user", "burst_of_activity"]


def test_a_score_is_taken_apart_by_the_artefact_itself(url: str, worker: Worker) -> None:
    model = worker.registry.held.get()
    body = post(f"{url}/explain", json=question(worker)).json()
    row = np.full((1, WIDTH), 0.5, np.float32)
    score, contributions = model.run(row)
    assert body["anomaly_score"] == pytest.approx(float(score[0]))
    assert [part["contribution"] for part in body["features"]] == pytest.approx(contributions[0].tolist())
    assert [what["usual"] for what in body["what_if"]] == [REASONS, REASONS[:1], REASONS[1:]]
    usual = {part["name"]: part["usual"] for part in body["features"]}
    speaking = {feature.name for feature in CATALOGUE if feature.reason in REASONS}
    changed = [usual[name] if name in speaking and usual[name] is not None else 0.5 for name in COLUMNS]
    again, _ = model.run(np.array([changed], np.float32))
    assert body["what_if"][0]["anomaly_score"] == pytest.approx(float(again[0]))
    assert body["artifact_sha256"] == model.sha256


def test_an_explanation_is_asked_for_with_the_features_of_the_version(url: str, worker: Worker) -> None:
    def asked(**changes: object) -> httpx.Response:
        return post(f"{url}/explain", json=question(worker, **changes))

    refused(asked(model_version="7"), 409, "MODEL_VERSION_MISMATCH")
    refused(asked(feature_set_id="fs_other"), 422, "FEATURE_SET_MISMATCH")
    refused(asked(features={"amount_log": 1.0}), 422, "FEATURE_SET_MISMATCH")
    refused(asked(reasons=["bad_luck"]), 422, "PARAMETER_INVALID")
    refused(post(f"{url}/explain", json=[]), 422, "PARAMETER_INVALID")
    assert asked(reasons=[]).json()["what_if"] == []


def test_activity_of_a_user_nobody_knows_is_null(url: str) -> None:
    assert get(f"{url}/activity?user_id=nobody").json() == {"features": None}
    refused(get(f"{url}/activity"), 422, "PARAMETER_INVALID")
