"""What the indexer does with each answer of Elasticsearch, against a server that answers as told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from feature_repo.settings import Settings
from streaming import bulk, search
from streaming.search import SearchWriter

Answer = Callable[[list[str]], tuple[int, dict[str, Any]]]
"""Status and body for a bulk with these ids."""


@dataclass
class ToldServer:
    """Answers the n-th bulk with the n-th answer, and with the last from then on."""

    answers: list[Answer]
    bulks: list[list[str]] = field(default_factory=list)
    url: str = ""

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        ids = [json.loads(line)["index"]["_id"] for line in body.splitlines()[::2]]
        self.bulks.append(ids)
        return self.answers[min(len(self.bulks), len(self.answers)) - 1](ids)


@contextmanager
def serving(*answers: Answer) -> Iterator[ToldServer]:
    told = ToldServer(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            status, body = told.answer(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/vnd.elasticsearch+json;compatible-with=9")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAUSE_S", (0.001, 0.002))


def entries(*ids: str) -> list[bytes]:
    made = []
    for identity in ids:
        head = f'{{"decision_id":"{identity}","revision":1,"ingested_at":"2026-01-01T00:00:00Z"}}'
        entry = bulk.entry(head.encode())
        assert entry is not None
        made.append(entry)
    return made


def items(statuses: dict[str, int], kind: str = "some_exception", reason: str = "why") -> Answer:
    """Per-item results: `statuses` where named, 201 otherwise."""

    def answer(ids: list[str]) -> tuple[int, dict[str, Any]]:
        results = []
        for identity in ids:
            status = statuses.get(identity, 201)
            error = {} if status < 300 else {"error": {"type": kind, "reason": reason}}
            results.append({"index": {"status": status, **error}})
        return 200, {"errors": any(r["index"]["status"] >= 300 for r in results), "items": results}

    return answer


def refusing(status: int, kind: str = "whole_exception", unless: Callable[[list[str]], bool] | None = None) -> Answer:
    """The request as a whole is refused, unless the predicate holds for its ids."""

    def answer(ids: list[str]) -> tuple[int, dict[str, Any]]:
        if unless is not None and unless(ids):
            return items({})(ids)
        return status, {"error": {"type": kind, "reason": "why"}, "status": status}

    return answer


def writer(url: str, stop: threading.Event | None = None) -> SearchWriter:
    return SearchWriter(Settings(elasticsearch_url=url), stop or threading.Event())


def test_a_conflict_is_success_because_the_same_or_a_newer_revision_is_there() -> None:
    with serving(items({"a": 409}, "version_conflict_engine_exception")) as server, writer(server.url) as w:
        assert w.write(entries("a", "b")) == []
    assert server.bulks == [["a", "b"]]


@pytest.mark.parametrize("status", [429, 503, 500, 403, 404])
def test_only_what_was_turned_away_is_sent_again(status: int) -> None:
    busy = items({"b": status}, "es_rejected_execution_exception")
    with serving(busy, items({})) as server, writer(server.url) as w:
        assert w.write(entries("a", "b", "c")) == []
        assert w.retries == 1
    assert server.bulks == [["a", "b", "c"], ["b"]]


def test_a_refused_document_is_reported_and_its_neighbours_go_in() -> None:
    strict = items({"b": 400}, "strict_dynamic_mapping_exception", "not allowed")
    with serving(strict) as server, writer(server.url) as w:
        refused = w.write(entries("a", "b", "c")) or []
    assert [(r.decision_id, r.revision, r.code, r.reason) for r in refused] == [
        ("b", 1, "strict_dynamic_mapping_exception", "not allowed")
    ]
    assert server.bulks == [["a", "b", "c"]]


@pytest.mark.parametrize(
    "reason",
    [
        "[1:93] failed to parse field [amount] of type [double]. Preview of field's value: '4111111111111111'",
        "[1:93] failed to parse field [amount] of type [double] in document with id '4111111111111111'",
        "immense term in field [user_id]. The prefix of the first immense term is: 4111111111111111",
    ],
)
def test_a_reason_names_the_field_and_never_the_value(reason: str) -> None:
    with serving(items({"b": 400}, "document_parsing_exception", reason)) as server, writer(server.url) as w:
        (refusal,) = w.write(entries("b")) or []
    assert "[amount]" in refusal.reason or "[user_id]" in refusal.reason
    assert "4111" not in refusal.reason


def test_a_cluster_without_room_for_an_index_is_waited_for() -> None:
    full = items({"a": 400}, "validation_exception", "this cluster currently has [1000]/[1000] shards")
    with serving(full, full, items({})) as server, writer(server.url) as w:
        assert w.write(entries("a")) == []
    assert len(server.bulks) == 3


def test_a_read_only_index_is_waited_for() -> None:
    blocked = items({"a": 403}, "cluster_block_exception", "index read-only")
    with serving(blocked, blocked, blocked, items({})) as server, writer(server.url) as w:
        assert w.write(entries("a")) == []
    assert len(server.bulks) == 4


@pytest.mark.parametrize("status", [429, 503, 401])
def test_a_request_turned_away_as_a_whole_is_sent_again_as_it_was(status: int) -> None:
    with serving(refusing(status), items({})) as server, writer(server.url) as w:
        assert w.write(entries("a", "b")) == []
    assert server.bulks == [["a", "b"], ["a", "b"]]


def test_a_request_too_large_is_halved_until_it_fits() -> None:
    small = refusing(413, unless=lambda ids: len(ids) <= 2)
    with serving(small) as server, writer(server.url) as w:
        assert w.write(entries("a", "b", "c", "d", "e")) == []
    accepted = [identity for ids in server.bulks if len(ids) <= 2 for identity in ids]
    assert sorted(accepted) == ["a", "b", "c", "d", "e"]


def test_the_one_document_a_request_is_refused_for_is_found() -> None:
    fussy = refusing(400, "x_content_parse_exception", unless=lambda ids: "c" not in ids)
    with serving(fussy) as server, writer(server.url) as w:
        refused = w.write(entries("a", "b", "c", "d", "e")) or []
    assert [(r.decision_id, r.code) for r in refused] == [("c", "x_content_parse_exception")]


def test_a_server_that_is_away_is_waited_for_until_told_to_stop() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    with writer("http://127.0.0.1:9", stop) as w:  # the discard port: nobody listens
        assert w.write(entries("a")) is None
        assert w.retries > 1
    timer.join()


def test_a_stop_does_not_cut_a_write_that_succeeds() -> None:
    stop = threading.Event()
    stop.set()
    with serving(items({})) as server, writer(server.url, stop) as w:
        assert w.write(entries("a")) == []
    assert server.bulks == [["a"]]
