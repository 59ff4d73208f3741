"""The shared table of messages at the API's door: each bad one gets its code, each good one a decision."""

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from api.app import create_app
from feature_repo.problem import MEDIA_TYPE
from feature_repo.transaction import rfc3339
from tests.cases.bad_inputs import BAD, BROKER_TIME_US, GOOD, Case
from tests.cases.model_service import (
    FolderSource,
    MemoryStates,
    listening,
    running,
    settings_for,
    worker_for,
)
from tests.unit.test_serving_http import get, wait

NOW = datetime.fromtimestamp(BROKER_TIME_US / 1e6, UTC)
SENT = [case for case in BAD if case.payload is not None]  # a tombstone cannot be sent over HTTP


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The query service before a model service whose clock stands at the table's time."""
    source = FolderSource(tmp_path_factory.mktemp("published"))
    source.publish("1")
    settings = settings_for(tmp_path_factory.mktemp("home"), model_timeout_s=90)
    with listening(worker_for(settings, source, MemoryStates(), now=NOW)) as service:
        wait(lambda: get(f"{service}/ready").status_code == 200, 120)
        app = create_app(settings.model_copy(update={"serving_url": service}))
        with running(app) as url, httpx.Client(base_url=url, timeout=90) as client:
            yield client


def post(client: httpx.Client, case: Case) -> httpx.Response:
    assert case.payload is not None
    return client.post("/detect", content=case.payload, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("case", SENT, ids=lambda case: case.name)
def test_a_bad_message_gets_its_code_and_is_not_repeated(client: httpx.Client, case: Case) -> None:
    response = post(client, case)
    body = response.json()
    assert (response.status_code, body["code"]) == (case.status, case.code)
    assert response.headers["content-type"] == MEDIA_TYPE
    location = [["body", case.field]] if case.field else []
    assert [error["loc"] for error in body["errors"]] == location
    said = response.text.replace(body["request_id"], "")  # random digits, which may happen to be these
    for secret in ("4111", "1500", "user_789", "Online Store"):
        assert secret not in said


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_message_gets_a_decision(client: httpx.Client, case: Case) -> None:
    response = post(client, case)
    assert response.status_code == 200, response.text
    answer = response.json()
    for name in ("transaction_id", "user_id", "currency"):
        if name in case.expect:
            assert answer[name] == case.expect[name]
    if "event_time" in case.expect:
        assert answer["event_time"] == rfc3339(case.expect["event_time"])
    ours = answer["currency"] == "USD"
    assert (answer["outcome"], answer["anomaly_score"] is not None) == ("scored" if ours else "unscored", ours)
