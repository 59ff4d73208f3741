"""The model service's client against a server of ours that answers, breaks and dawdles on demand."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from feature_repo import errors
from feature_repo.problem import MEDIA_TYPE, encode, problem
from serving.client import BINARY, ModelClient
from serving.wire import SCORED

MODEL = {
    "version": "3",
    "feature_set_id": "fs_1",
    "columns": ["amount_log", "history"],
    "threshold": 0.7,
    "alert_budget": 0.005,
    "artifact_sha256": "ab" * 32,
}
X = np.arange(6, dtype=np.float32).reshape(3, 2)
NOT_NUMBERS = np.zeros(3, SCORED)
NOT_NUMBERS["score"] = np.nan


class ModelService(ThreadingHTTPServer):
    """Answers `/models` and `/score`; its attributes decide how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.error: errors.VigilError | None = None  # answered instead of scores
        self.close_after_each = False  # without saying so: what an idle keep-alive connection looks like
        self.delay_s = 0.0
        self.over = threading.Event()  # nobody waits any longer
        self.answer: bytes | None = None  # raw body instead of scores
        self.answered_version: str | None = None
        self.connections = 0
        self.received: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelService

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, "application/json", json.dumps({"champion": "3", "loaded": [MODEL]}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        self.server.over.wait(self.server.delay_s)
        if self.server.error is not None:
            self.reply(self.server.error.status, MEDIA_TYPE, encode(problem(self.server.error, "r1")))
            return
        scored = np.zeros(len(body) // 8, SCORED)
        scored["score"] = np.frombuffer(body, "<f4").reshape(-1, 2).sum(axis=1) / 10
        self.reply(200, BINARY, scored.tobytes() if self.server.answer is None else self.server.answer)

    def reply(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        version = self.server.answered_version or self.headers.get("X-Vigil-Model-Version", "")
        self.send_header("X-Vigil-Model-Version", version)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.server.close_after_each


@pytest.fixture
def service() -> Iterator[ModelService]:
    server = ModelService()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(service: ModelService) -> Iterator[ModelClient]:
    with ModelClient(service.url, timeout_s=30.0) as client:
        yield client


def test_scores_come_back_row_by_row(service: ModelService, client: ModelClient) -> None:
    scored = client.score(X, "3", "fs_1")
    assert scored.dtype == SCORED
    np.testing.assert_allclose(scored["score"], X.sum(axis=1) / 10)
    headers, body = service.received[0]
    assert body == X.astype("<f4").tobytes()
    assert headers["Content-Type"] == BINARY
    assert headers["X-Vigil-Model-Version"] == "3"
    assert headers["X-Vigil-Feature-Set"] == "fs_1"


def test_a_column_slice_is_sent_row_by_row(service: ModelService, client: ModelClient) -> None:
    wide = np.arange(12, dtype=np.float64).reshape(3, 4)
    client.score(wide[:, ::2], "3", "fs_1")
    assert service.received[0][1] == wide[:, ::2].astype("<f4").tobytes()


def test_no_rows_need_no_call(service: ModelService, client: ModelClient) -> None:
    assert len(client.score(X[:0], "3", "fs_1")) == 0
    assert service.connections == 0


def test_models_are_named_with_what_a_caller_needs(client: ModelClient) -> None:
    models = client.models()
    assert models.champion == "3"
    assert models.get("3").columns == ("amount_log", "history")
    with pytest.raises(errors.ModelVersionMismatch) as caught:
        models.get("4")
    assert caught.value.loaded == ["3"]


def test_calls_share_one_connection(service: ModelService, client: ModelClient) -> None:
    for _ in range(5):
        client.score(X, "3", "fs_1")
    client.models()
    assert service.connections == 1


def test_a_connection_closed_while_idle_is_opened_again(service: ModelService, client: ModelClient) -> None:
    service.close_after_each = True
    for _ in range(3):
        assert len(client.score(X, "3", "fs_1")) == 3
    assert service.connections == 3


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelVersionMismatch("4", ["3", "2"]),
        errors.FeatureSetMismatch("fs_2", "fs_1"),
        errors.FeatureInvalid(1, "history"),
        errors.BatchTooLarge(100_000, 65_536),
        errors.ModelLoading(),
        errors.ModelOutputInvalid("3", "a score outside [0, 1]"),
    ],
    ids=lambda error: error.code,
)
def test_a_refusal_arrives_as_the_class_it_left_as(
    service: ModelService, client: ModelClient, error: errors.VigilError
) -> None:
    service.error = error
    with pytest.raises(type(error)) as caught:
        client.score(X, "3", "fs_1")
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
    service.error = None
    assert len(client.score(X, "3", "fs_1")) == 3  # the connection is still good


def test_an_unknown_problem_keeps_its_code(service: ModelService, client: ModelClient) -> None:
    service.error = errors.MediaTypeUnsupported(BINARY)
    with pytest.raises(errors.VigilError) as caught:
        client.score(X, "3", "fs_1")
    assert (caught.value.code, caught.value.status) == ("UNSUPPORTED_MEDIA_TYPE", 415)


def test_a_slow_answer_ends_at_the_deadline(service: ModelService) -> None:
    service.delay_s = 20.0
    started = time.monotonic()
    with (
        ModelClient(service.url, timeout_s=0.2) as client,
        pytest.raises(errors.DependencyDown, match=r"0\.2 s"),
    ):
        client.score(X, "3", "fs_1")
    assert time.monotonic() - started < 10.0


def test_nobody_listening_is_a_dependency_down(service: ModelService) -> None:
    url = service.url
    service.server_close()
    with ModelClient(url, timeout_s=1.0) as client, pytest.raises(errors.DependencyDown):
        client.models()


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        (b"", None),
        (b"\0" * (3 * SCORED.itemsize - 1), None),
        (NOT_NUMBERS.tobytes(), None),
        (None, "2"),
    ],
    ids=["empty", "short", "not a number", "another version"],
)
def test_an_answer_that_is_not_the_scores_asked_for_is_refused(
    service: ModelService, client: ModelClient, answer: bytes | None, version: str | None
) -> None:
    service.answer, service.answered_version = answer, version
    with pytest.raises(errors.ModelOutputInvalid):
        client.score(X, "3", "fs_1")
