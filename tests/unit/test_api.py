"""The query service without its stores: what it refuses, how it says so, and what it never repeats."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate

from api.app import create_app
from api.detect.schemas import PAYMENT_EXAMPLE, Detection
from api.filters import Filters
from api.health import service as readiness
from api.health.service import HealthService
from api.transactions.schemas import DecisionDetail
from feature_repo.problem import MEDIA_TYPE
from tests.cases.model_service import (
    FolderSource,
    MemoryStates,
    listening,
    running,
    settings_for,
    worker_for,
)
from tests.unit.test_serving_http import get, post, wait

SECRET = "4111-1111-1111-1111"  # what a client sends must not come back
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    source = FolderSource(tmp_path_factory.mktemp("published"))
    source.publish("1")
    with listening(worker_for(settings_for(source.folder), source, MemoryStates())) as url:
        wait(lambda: get(f"{url}/models").status_code == 200)
        yield url


@pytest.fixture(scope="module")
def client(model_service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service with a model service, and with nobody at the addresses of its stores."""
    home = tmp_path_factory.mktemp("home")
    settings = settings_for(home, serving_url=model_service, model_timeout_s=60)
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=90) as client:
        yield client


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.headers["X-Request-ID"]
    body: dict[str, Any] = response.json()
    assert (body["code"], body["status"]) == (code, status)
    assert {"title", "detail", "request_id", "errors"} <= body.keys()
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert SECRET not in response.text
    return body


BAD_QUERIES = [
    ("limit=0", 422, "LIMIT_RANGE"),
    ("limit=-1", 422, "LIMIT_RANGE"),
    ("limit=1e9", 422, "LIMIT_RANGE"),
    ("limit=1000000000", 422, "LIMIT_RANGE"),
    ("limit=abc", 422, "LIMIT_RANGE"),
    ("limit=", 422, "LIMIT_RANGE"),
    ("limit=501", 422, "LIMIT_RANGE"),
    (f"cursor={SECRET}", 400, "CURSOR_INVALID"),
    ("cursor=" + "A" * 5000, 400, "CURSOR_INVALID"),
    ("cursor=", 400, "CURSOR_INVALID"),
    ("from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "RANGE_ORDER"),
    ("start_time=2026-02-01&end_time=2026-01-01", 422, "RANGE_ORDER"),
    ("from=2026-02-01&end_time=2026-01-01", 422, "RANGE_ORDER"),
    ("min_amount=5&max_amount=4.99", 422, "RANGE_ORDER"),
    ("from=2026-02-01T00:00:00", 422, "TIME_NO_ZONE"),
    ("from=1700000000", 422, "TIME_FORMAT"),
    ("from=yesterday", 422, "TIME_FORMAT"),
    ("to=2026-02-30T00:00:00Z", 422, "TIME_INVALID"),
    ("to=0001-01-01T00:00:00%2B14:00", 422, "TIME_INVALID"),
    ("from=2026-01-01&start_time=2026-01-01", 422, "PARAMETER_TWICE"),
    ("limit=1&limit=2", 422, "PARAMETER_TWICE"),
    (f"order={SECRET}", 422, "PARAMETER_UNKNOWN"),
    (f"{SECRET}=1", 422, "PARAMETER_UNKNOWN"),
    ("user=u", 422, "PARAMETER_UNKNOWN"),
    ("user_id=", 422, "PARAMETER_INVALID"),
    ("user_id=%20", 422, "ID_FORMAT"),
    ("user_id=a%00b", 422, "ID_FORMAT"),
    ("user_id=" + "x" * 129, 422, "PARAMETER_INVALID"),
    ("min_amount=NaN", 422, "PARAMETER_INVALID"),
    ("min_amount=Infinity", 422, "PARAMETER_INVALID"),
    ("min_amount=-1", 422, "PARAMETER_INVALID"),
    ("max_amount=1e400", 422, "PARAMETER_INVALID"),
    ("min_amount=1e-20000", 422, "PARAMETER_INVALID"),
    (f"is_anomaly={SECRET}", 422, "PARAMETER_INVALID"),
    ("decision=accept", 422, "PARAMETER_INVALID"),
    ("outcome=lost", 422, "PARAMETER_INVALID"),
    ("reason=bad_luck", 422, "PARAMETER_INVALID"),
]


@pytest.mark.parametrize(("query", "status", "code"), BAD_QUERIES)
@pytest.mark.parametrize("path", ["/transactions?", "/search?q=coffee&"])
def test_a_bad_query_is_refused_by_name(client: httpx.Client, path: str, query: str, status: int, code: str) -> None:
    refused(client.get(path + query), status, code)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("limit=0", 422, "LIMIT_RANGE"),
        ("cursor=AAAA", 400, "CURSOR_INVALID"),
        ("from=2026-02-01&to=2026-01-01", 422, "RANGE_ORDER"),
        ("from=2026-02-01T00:00:00", 422, "TIME_NO_ZONE"),
        ("key=a%00b", 422, "ID_FORMAT"),
        (f"kind={SECRET}", 422, "PARAMETER_INVALID"),
        ("user_id=u", 422, "PARAMETER_UNKNOWN"),
        ("kind=user&kind=merchant", 422, "PARAMETER_TWICE"),
    ],
)
def test_a_bad_query_for_windows_is_refused_by_name(client: httpx.Client, query: str, status: int, code: str) -> None:
    refused(client.get(f"/metrics/windows?{query}"), status, code)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/transactions?sort={SECRET}", "PARAMETER_INVALID"),
        ("/transactions?sort=merchant", "PARAMETER_INVALID"),
        ("/transactions?sort=-amount", "RANGE_NEEDED"),
        ("/transactions?sort=anomaly_score&from=2026-01-01&to=2026-02-02", "RANGE_NEEDED"),
        ("/transactions?merchant=a%00b", "ID_FORMAT"),
        ("/transactions.csv?limit=5", "PARAMETER_UNKNOWN"),
        ("/transactions.ndjson?sort=amount", "RANGE_NEEDED"),
        ("/transactions.xlsx", "PARAMETER_INVALID"),
        ("/search?q=coffee&sort=amount", "PARAMETER_UNKNOWN"),
        ("/search?q=coffee&merchant=a%00b", "ID_FORMAT"),
        ("/stats?from=2026-01-01&to=2026-01-09", "RANGE_LENGTH"),
        ("/stats?user_id=u", "PARAMETER_UNKNOWN"),
        ("/users/a%00b", "ID_FORMAT"),
        ("/transactions/a%00b/explain", "ID_FORMAT"),
    ],
)
def test_what_only_some_paths_take_is_refused_elsewhere(client: httpx.Client, path: str, code: str) -> None:
    refused(client.get(path), 422, code)


@pytest.mark.parametrize("query", ["", "q=", "q=*coffee", 'q="new york', "q=/a.*b/", "q=" + "a+OR+" * 2000 + "a"])
def test_search_text_outside_the_syntax_is_refused(client: httpx.Client, query: str) -> None:
    body = refused(client.get(f"/search?{query}"), 422, "QUERY_SYNTAX")
    assert body["errors"] == [{"loc": ["query", "q"], "code": "QUERY_SYNTAX"}]


@pytest.mark.parametrize(
    "path",
    [
        "/transactions",
        "/transactions?limit=500&is_anomaly=true",
        "/transactions/txn_1",
        "/transactions/a/b",
        "/search?q=x1",
        "/transactions.csv",
        "/transactions.ndjson",
        "/transactions/a/b/explain",
        "/users/u/1",
        "/stats",
        "/stats?to=0001-01-01",
        "/stats?from=9999-12-31T12:00:00Z",
        "/search?q=x1&to=2001-01-01",
        "/search?q=x1&to=0001-01-01",
        "/search.csv?q=x1&to=2001-01-01",
    ],
)
def test_a_store_that_is_down_is_said_so_without_its_address(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    body = refused(response, 503, "STORE_UNAVAILABLE")
    assert "127.0.0.1" not in response.text
    assert body["detail"].split()[0] in ("PostgreSQL", "Elasticsearch")
    assert int(response.headers["Retry-After"]) > 0


def test_a_registry_that_is_down_is_said_so_without_its_address(client: httpx.Client) -> None:
    for response in (
        client.get("/models"),
        client.post("/models/3/promote", json={}),
        client.post("/models/3/challenge", json={}),
    ):
        body = refused(response, 503, "DEPENDENCY_DOWN")
        assert body["detail"] == "MLflow does not answer"
    refused(client.post("/models/rollback", json={}), 503, "STORE_UNAVAILABLE")
    refused(client.post("/models/end-challenge", json={}), 503, "STORE_UNAVAILABLE")
    refused(client.get("/models/requests/1"), 503, "STORE_UNAVAILABLE")


def test_a_form_of_another_page_moves_no_model(client: httpx.Client) -> None:
    for path in ("/models/rollback", "/models/3/promote", "/models/3/challenge", "/models/end-challenge"):
        refused(client.post(path), 415, "UNSUPPORTED_MEDIA_TYPE")
        refused(client.post(path, data={"override": "yes"}), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_reason_is_text_that_can_be_kept(client: httpx.Client) -> None:
    for reason in ("", "  ", "a\0b"):
        assert client.post("/models/3/promote", json={"override": reason}).status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "EMPTY"),
        (b"{", 400, "NOT_JSON"),
        (b"[]", 400, "NOT_OBJECT"),
        (b"{}", 422, "FIELD_MISSING"),
        (json.dumps({"transaction_id": "t", "is_fraud": SECRET, "label_time": "x"}).encode(), 422, "TYPE"),
        (b" " * 65_536 + b"x", 413, "TOO_LARGE"),
        (b'{"transaction_id": "t", "is_fraud": true, "label_time": "2026-01-01T00:00:00Z"}', 503, "STORE_UNAVAILABLE"),
    ],
)
def test_a_bad_label_hears_the_code_of_its_dead_letter(
    client: httpx.Client, body: bytes, status: int, code: str
) -> None:
    refused(client.post("/labels", content=body, headers=JSON), status, code)
    refused(client.post("/labels", content=body), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("intake", {"state": "rules-only", "reason": "x"}, "PARAMETER_INVALID"),
        ("scoring", {"state": "paused", "reason": "x"}, "PARAMETER_INVALID"),
        ("lights", {"state": "paused", "reason": "x"}, "PARAMETER_INVALID"),
        ("intake", {"state": SECRET, "reason": "x"}, "PARAMETER_INVALID"),
        ("intake", {"state": "paused"}, "PARAMETER_INVALID"),
        ("intake", {"state": "paused", "reason": ""}, "PARAMETER_INVALID"),
        ("intake", {"state": "paused", "reason": " "}, "ID_FORMAT"),
        ("intake", {"state": "paused", "reason": "x" * 501}, "PARAMETER_INVALID"),
        ("intake", {"state": "paused", "reason": "x", "actor": SECRET}, "PARAMETER_UNKNOWN"),
    ],
)
def test_a_switch_is_only_set_to_a_state_of_its_own_and_with_a_reason(
    client: httpx.Client, name: str, body: dict[str, Any], code: str
) -> None:
    refused(client.put(f"/switches/{name}", json=body), 422, code)


def test_switches_are_of_no_use_without_their_store_nor_to_another_site(client: httpx.Client) -> None:
    body = {"state": "paused", "reason": "x"}
    refused(client.put("/switches/intake", json=body), 503, "STORE_UNAVAILABLE")
    refused(client.get("/switches"), 503, "STORE_UNAVAILABLE")
    refused(client.put("/switches/intake", content=json.dumps(body)), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_check_that_hangs_is_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_S", 0.05)
    over = threading.Event()

    def hang() -> Any:
        over.wait()

    async def ask() -> Any:
        try:
            return await HealthService({"well": lambda: "up", "hung": hang}, hang).readiness()
        finally:
            over.set()

    assert asyncio.run(ask()) == ({"well": "up", "hung": "down"}, [])


LINES = {"Content-Type": "application/x-ndjson"}


@pytest.mark.parametrize(
    ("body", "status", "code", "errors"),
    [
        (b"", 400, "EMPTY", []),
        (b"\n \n", 400, "EMPTY", []),
        (b'{"transaction_id": 1}\n[]', 422, "TYPE", [["body", 0, "transaction_id"], ["body", 1]]),
        (b"{}\n" * 1_001, 413, "BATCH_TOO_LARGE", []),
        (b" " * ((1 << 20) + 1), 413, "TOO_LARGE", []),
    ],
)
def test_a_batch_with_a_bad_payment_is_refused_whole(
    client: httpx.Client, body: bytes, status: int, code: str, errors: list[Any]
) -> None:
    found = refused(client.post("/transactions", content=body, headers=LINES), status, code)
    assert [error["loc"] for error in found["errors"]] == errors


def test_a_payment_to_be_decided_keeps_the_contract(client: httpx.Client) -> None:
    refused(client.post("/transactions", content=b"[]", headers=JSON), 400, "NOT_OBJECT")
    refused(client.post("/transactions", content=b" " * 65_537, headers=JSON), 413, "TOO_LARGE")
    refused(client.post("/transactions", json=payment(merchant=SECRET)), 422, "PAN_DETECTED")
    refused(client.post("/transactions", content=b"a=1"), 415, "UNSUPPORTED_MEDIA_TYPE")
    refused(
        client.post("/transactions", json=payment(), headers={"Idempotency-Key": "k" * 129}), 422, "PARAMETER_INVALID"
    )
    refused(client.post("/transactions", json=payment()), 503, "STORE_UNAVAILABLE")


def test_the_stream_of_alerts_needs_kafka_and_a_place_it_has_given(client: httpx.Client) -> None:
    refused(client.get("/stream"), 503, "DEPENDENCY_DOWN")
    for place in ("", "1", "0-x", "0-1." + SECRET, "9" * 9000):
        refused(client.get("/stream", headers={"Last-Event-ID": place}), 400, "CURSOR_INVALID")


def test_live_needs_nothing_and_ready_names_what_is_missing(client: httpx.Client) -> None:
    assert client.get("/live").json() == {"status": "live"}
    body = refused(client.get("/ready"), 503, "NOT_READY")
    assert (body["checks"]["postgres"], body["checks"]["elasticsearch"]) == ("down", "down")
    assert body["checks"]["serving"] != "down"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/{SECRET}", 404, "NOT_FOUND"),
        ("GET", "/transactions/", 422, "PARAMETER_INVALID"),
        ("GET", "/transactions/a%00b", 422, "ID_FORMAT"),
        ("GET", "/transactions/" + "x" * 129, 422, "PARAMETER_INVALID"),
        ("DELETE", "/transactions", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/detect", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_paths_and_methods_that_do_not_exist_are_problems(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    refused(response, status, code)
    if status == 405:
        assert response.headers["Allow"]


def payment(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {**PAYMENT_EXAMPLE, "timestamp": now, **changes}


def test_detect_answers_what_the_model_service_decides(client: httpx.Client) -> None:
    response = client.post("/detect", json=payment(), headers={"X-Request-ID": "mine-1"})
    assert response.status_code == 200, response.text
    assert response.headers["X-Request-ID"] == "mine-1"
    answer = Detection.model_validate(response.json(), strict=True)
    assert (answer.transaction_id, answer.model_version) == ("txn_123456", "1")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "EMPTY"),
        (b"{", 400, "NOT_JSON"),
        (b"[]", 400, "NOT_OBJECT"),
        (b"\xff\xfe", 400, "NOT_UTF8"),
        (json.dumps(payment(amount=SECRET)).encode(), 422, "TYPE"),
        (json.dumps(payment(merchant=SECRET)).encode(), 422, "PAN_DETECTED"),
        (json.dumps(payment(amount=float("nan"))).encode(), 422, "NUMBER_NOT_FINITE"),
        (json.dumps(payment()).replace("1500.0", "1e400").encode(), 422, "NUMBER_NOT_FINITE"),
        (json.dumps(payment(merchant="\ud800")).encode(), 422, "INVALID_UNICODE"),
        (b" " * 65_537, 413, "TOO_LARGE"),
    ],
)
def test_a_bad_payment_hears_the_parsers_code(client: httpx.Client, body: bytes, status: int, code: str) -> None:
    refused(client.post("/detect", content=body, headers=JSON), status, code)


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-pickle"}])
def test_a_payment_that_is_not_json_by_its_type_is_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    refused(client.post("/detect", content=b"{}", headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_detect_knows_no_other_parameters(client: httpx.Client) -> None:
    refused(client.post(f"/detect?{SECRET}=1", json=payment()), 422, "PARAMETER_UNKNOWN")
    refused(client.post("/detect?record=perhaps", json=payment()), 422, "PARAMETER_INVALID")


def test_recording_without_kafka_is_refused(client: httpx.Client) -> None:
    refused(client.post("/detect?record=true", json=payment()), 503, "DEPENDENCY_DOWN")


def test_without_the_model_service_there_is_no_decision(tmp_path: Path) -> None:
    with running(create_app(settings_for(tmp_path))) as url:
        refused(post(f"{url}/detect", json=payment()), 503, "DEPENDENCY_DOWN")


def test_an_unexpected_error_is_a_problem_without_its_text(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET) from ValueError(SECRET)

    monkeypatch.setattr("api.transactions.repository.TransactionRepository.page", fail)
    # On a connection of its own: the server closes it after such an answer.
    body = refused(get(client.base_url.join("/transactions")), 500, "INTERNAL")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "vigil.api"]
    assert line.startswith(f"{body['request_id']} unexpected: RuntimeError from ValueError at ")
    assert re.search(r"/api/transactions/service\.py:\d+$", line)
    assert SECRET not in line


def test_the_log_names_the_route_and_nobody(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vigil.api.access"):
        client.get("/transactions/txn_of_somebody")
        client.get("/transactions?user_id=somebody")
        client.get("/somebody")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "vigil.api.access"]
    assert [line["route"] for line in lines] == ["/transactions/{transaction_id:path}", "/transactions", "none"]
    assert all(line["request_id"] and line["status"] and line["ms"] >= 0 for line in lines)
    assert "somebody" not in json.dumps(lines)


def test_paths_nobody_serves_share_one_label(client: httpx.Client) -> None:
    client.get(f"/{SECRET}")
    page = client.get("/metrics").text
    assert SECRET not in page
    assert 'vigil_api_requests_total{method="none",route="none",status="404"}' in page


# ---- the OpenAPI document ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_the_openapi_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)  # type: ignore[arg-type]  # its Schema type is a plain mapping


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    checked = 0
    payment_schema = document["paths"]["/detect"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for schema in [payment_schema, *document["components"]["schemas"].values()]:
        if "example" in schema:
            within = {**schema, "components": document["components"]}
            jsonschema.validate(schema["example"], within)
            checked += 1
    assert checked >= 4


def test_every_error_in_the_document_is_a_problem(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if not status.startswith("2"):
                    assert list(response["content"]) == [MEDIA_TYPE]
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_filter_is_documented() -> None:
    assert all(field.description for field in Filters.model_fields.values())


def test_a_stored_decision_says_all_that_detect_says() -> None:
    only_now = {"recorded_as"}
    assert set(Detection.model_fields) - only_now <= set(DecisionDetail.model_fields)
