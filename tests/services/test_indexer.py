"""The indexer and the reindex against real servers: twice is once, the newer wins, nothing is skipped."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from elasticsearch import BadRequestError, Elasticsearch

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from infra.elasticsearch import provision
from infra.local.stack import Stack
from pipelines import degraded
from streaming import indexer, indexer_metrics, reindex, watch
from streaming.repair import decision_message

DAY = "2001-02-03"  # an index of these tests' own
INDEX = "decisions-2001.02.03"


class Topic:
    """A topic of the test's own in place of `decisions`, and the documents behind the alias."""

    def __init__(self, settings: Settings, name: str, client: Elasticsearch) -> None:
        self.settings, self.name, self.client = settings, name, client
        self.group = f"group-{name}"
        self._producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})

    def decision(self, number: int, **changes: Any) -> dict[str, Any]:
        document = {
            "decision_id": f"{self.name}-0-{number}",
            "revision": 1,
            "ingested_at": f"{DAY}T10:00:00.000001Z",
            "kafka_topic": self.name,
            "kafka_partition": 0,
            "kafka_offset": number,
            "transaction_id": f"t{number}",
            "user_id": "u1",
            "amount": 12.5,
            "currency": "USD",
            "event_time": "1999-12-31T23:59:59.123456Z",
            "merchant": "Corner Café “№ 5”",
            "location": "Zürich, CH",
            "payment_method": "credit_card",
            "outcome": "scored",
            "unscored_reason": None,
            "anomaly_score": 0.25,
            "is_anomaly": False,
            "anomaly_reasons": [],
            "decision": "approve",
            "model_version": "3",
            "feature_set_id": "fs_1",
            "ruleset_version": "v0",
            "late": False,
            "processed_at": f"{DAY}T10:00:01Z",
        }
        return document | changes

    def send(self, *documents: dict[str, Any] | bytes) -> None:
        for document in documents:
            value = document if isinstance(document, bytes) else json.dumps(document).encode()
            self._producer.produce(self.name, value)
        assert self._producer.flush(10) == 0

    def index(self, group: str = "") -> indexer.Counts:
        return indexer.run(self.settings, threading.Event(), until_caught_up=True, group=group or self.group)

    def found(self) -> dict[str, dict[str, Any]]:
        """Documents of this topic by number, with their version."""
        self.client.indices.refresh(index=provision.ALIAS)
        hits = self.client.search(
            index=provision.ALIAS,
            query={"term": {"kafka_topic": self.name}},
            size=1_000,
            version=True,
        )["hits"]["hits"]
        assert all(hit["_index"] == INDEX for hit in hits)
        return {hit["_id"].rpartition("-")[2]: hit["_source"] | {"_version": hit["_version"]} for hit in hits}

    def committed(self) -> int:
        consumer = Consumer({"bootstrap.servers": self.settings.kafka_bootstrap, "group.id": self.group})
        with closing(consumer):
            (position,) = consumer.committed([TopicPartition(self.name, 0)], timeout=10)
            return position.offset

    def parked(self) -> list[tuple[str, int, str, str]]:
        statement = (
            "SELECT decision_id, revision, code, reason FROM parked_documents WHERE decision_id LIKE %s ORDER BY 1"
        )
        with closing(psycopg2.connect(self.settings.postgres_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, (f"{self.name}-%",))
            return cursor.fetchall()


@pytest.fixture
def client(stack: Settings) -> Iterator[Elasticsearch]:
    with Elasticsearch(stack.elasticsearch_url, request_timeout=30) as client:
        yield client


@pytest.fixture
def topic(stack: Settings, client: Elasticsearch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Topic]:
    name = f"d{uuid.uuid4().hex[:10]}"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    for future in admin.create_topics([NewTopic(name, 1, 1)]).values():
        future.result(10)
    until(lambda: name in admin.list_topics(timeout=10).topics)
    monkeypatch.setattr(indexer, "TOPIC", name)
    yield Topic(stack, name, client)
    for future in admin.delete_topics([name]).values():
        future.result(10)
    client.options(ignore_status=404).indices.delete(index=INDEX)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.1)


def test_every_outcome_is_indexed_and_the_document_is_the_message(topic: Topic) -> None:
    sent = [
        topic.decision(0),
        topic.decision(1, outcome="unscored", unscored_reason="MODEL_DOWN", anomaly_score=None, decision="review"),
        topic.decision(2, outcome="duplicate", anomaly_score=None, is_anomaly=None, decision=None),
        topic.decision(3, is_anomaly=True, anomaly_reasons=["burst_of_activity", "card_testing_pattern"]),
    ]
    topic.send(*sent)
    assert topic.index().documents == 4
    assert topic.found() == {str(n): document | {"_version": 1} for n, document in enumerate(sent)}
    assert topic.committed() == 4


def test_indexing_twice_is_indexing_once(topic: Topic) -> None:
    topic.send(*(topic.decision(n) for n in range(20)))
    topic.index()
    first = topic.found()
    assert topic.index(group="another-" + topic.group).documents == 20
    assert topic.found() == first and len(first) == 20
    assert topic.index().documents == 0


def test_the_higher_revision_wins_in_whatever_order_they_come(topic: Topic) -> None:
    new = {"revision": 2, "outcome": "scored", "model_version": "4"}
    topic.send(topic.decision(0), topic.decision(0, **new), topic.decision(1, **new), topic.decision(1))
    topic.index()
    topic.send(topic.decision(0), topic.decision(1))
    assert topic.index().parked == 0
    assert {n: (d["_version"], d["model_version"]) for n, d in topic.found().items()} == {
        "0": (2, "4"),
        "1": (2, "4"),
    }


def test_refused_documents_are_parked_with_the_reason_and_block_nobody(topic: Topic) -> None:
    topic.send(
        topic.decision(0),
        topic.decision(1, colour="red"),
        topic.decision(2, amount="4111 1111 1111 1111"),
        b"not a decision",
        b"",
        topic.decision(5),
    )
    counts = topic.index()
    assert (counts.documents, counts.parked) == (4, 4)
    assert sorted(topic.found()) == ["0", "5"]
    assert [(row[0].rpartition("-")[2], row[1], row[2]) for row in topic.parked()] == [
        ("1", 1, "strict_dynamic_mapping_exception"),
        ("2", 1, "document_parsing_exception"),
        ("3", 0, "NOT_A_DECISION"),
        ("4", 0, "NOT_A_DECISION"),
    ]
    assert "colour" in topic.parked()[0][3] and "4111" not in topic.parked()[1][3]
    assert topic.committed() == 6


def test_with_elasticsearch_away_it_holds_says_so_and_converges_afterwards(
    topic: Topic, running: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer_metrics, "BEHIND_S", 0.0)
    monkeypatch.setattr(watch, "EVERY_S", 0.5)

    def said() -> dict[str, str]:
        return {one["code"]: one["remedy"] for one in degraded.of_jobs(topic.settings)}

    topic.send(*(topic.decision(n) for n in range(5)))
    topic.index()
    running.stop("elasticsearch")
    try:
        topic.send(*(topic.decision(n) for n in range(5, 10)))
        work = threading.Thread(target=topic.index)
        work.start()
        until(lambda: "vigil restart elasticsearch" in said().get("SEARCH_BEHIND", ""))
        assert work.is_alive() and topic.committed() == 5
    finally:
        running.restart("elasticsearch")
    work.join(60)
    assert not work.is_alive()
    assert topic.committed() == 10 and len(topic.found()) == 10
    assert "SEARCH_BEHIND" not in said()


def test_told_to_stop_while_elasticsearch_is_away_it_ends_without_having_skipped(topic: Topic) -> None:
    topic.send(topic.decision(0))
    away = topic.settings.model_copy(update={"elasticsearch_url": "http://127.0.0.1:9"})
    stop = threading.Event()
    work = threading.Thread(target=indexer.run, args=(away, stop), kwargs={"group": topic.group})
    work.start()
    time.sleep(3)
    assert work.is_alive()
    stop.set()
    work.join(20)
    assert not work.is_alive() and topic.committed() < 0
    topic.index()
    assert list(topic.found()) == ["0"]


def test_a_refused_document_waits_for_postgres_before_it_is_passed_over(topic: Topic) -> None:
    topic.send(b"not a decision")
    away = topic.settings.model_copy(update={"postgres_dsn": "postgresql://vigil_writer@127.0.0.1:9/vigil"})
    stop = threading.Event()
    work = threading.Thread(target=indexer.run, args=(away, stop), kwargs={"group": topic.group})
    work.start()
    time.sleep(3)
    stop.set()
    work.join(20)
    assert not work.is_alive() and topic.committed() < 0
    topic.index()
    assert topic.committed() == 1 and len(topic.parked()) == 1


def test_a_broker_that_is_away_at_the_start_is_named(stack: Settings) -> None:
    away = stack.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with pytest.raises(DependencyDown, match=r"Kafka at 127\.0\.0\.1:9"):
        indexer.run(away, threading.Event())


# ---- the index ----------------------------------------------------------------------------------


def test_a_field_the_template_does_not_know_is_refused(topic: Topic) -> None:
    with pytest.raises(BadRequestError, match="strict_dynamic_mapping_exception"):
        topic.client.index(index=INDEX, document=topic.decision(0, colour="red"))


def test_provisioning_again_changes_nothing_and_keeps_documents(topic: Topic) -> None:
    topic.send(topic.decision(0))
    topic.index()
    mapping = dict(topic.client.indices.get_mapping(index=INDEX))
    provision.apply(topic.settings)
    assert dict(topic.client.indices.get_mapping(index=INDEX)) == mapping
    assert list(topic.found()) == ["0"]


def test_a_new_field_of_the_template_comes_to_an_index_that_exists(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.send(topic.decision(0))
    topic.index()
    body = provision.template()
    body["template"]["mappings"]["properties"] |= {"colour": {"type": "keyword"}, "late": {"type": "keyword"}}
    monkeypatch.setattr(provision, "template", lambda: body)
    provision.apply(topic.settings)
    try:
        properties = topic.client.indices.get_mapping(index=INDEX)[INDEX]["mappings"]["properties"]
        assert properties["colour"] == {"type": "keyword"} and properties["late"] == {"type": "boolean", "index": False}
        topic.send(topic.decision(1, colour="red"))
        assert topic.index().parked == 0
    finally:
        monkeypatch.undo()
        provision.remove(topic.settings)
        provision.apply(topic.settings)


def test_names_are_found_by_word(topic: Topic) -> None:
    topic.send(topic.decision(0), topic.decision(1, merchant="Corner Shop"))
    topic.index()
    assert set(topic.found()) == {"0", "1"}

    def hits(query: dict[str, Any]) -> int:
        return int(topic.client.count(index=INDEX, query=query)["count"])

    assert hits({"match": {"merchant": "corner"}}) == 2
    assert hits({"match_phrase": {"merchant": "corner shop"}}) == 1


# ---- from PostgreSQL ----------------------------------------------------------------------------

COLUMNS = (
    "revision, ingested_at, kafka_topic, kafka_partition, kafka_offset, transaction_id, user_id, amount, currency, "
    "event_time, merchant, location, payment_method, outcome, unscored_reason, anomaly_score, is_anomaly, "
    "anomaly_reasons, decision, model_version, feature_set_id, ruleset_version, late, processed_at"
)


@pytest.fixture
def rows(topic: Topic) -> Iterator[list[dict[str, Any]]]:
    """Decisions in PostgreSQL under this test's topic, as they were read back; the first has two revisions."""
    moment = datetime(2001, 2, 3, 10, 0, 0, 1, tzinfo=UTC)
    base = {
        "ingested_at": moment,
        "kafka_topic": topic.name,
        "kafka_partition": 0,
        "user_id": "u1",
        "amount": "12.5",
        "currency": "USD",
        "event_time": datetime(1999, 12, 31, 23, 59, 59, 123_456, tzinfo=UTC),
        "merchant": 'Corner "Café"\\ №5',
        "location": "Zürich\u2028CH",
        "payment_method": "credit_card",
        "unscored_reason": None,
        "anomaly_score": None,
        "is_anomaly": None,
        "anomaly_reasons": None,
        "decision": "review",
        "model_version": None,
        "feature_set_id": None,
        "ruleset_version": "v0",
        "late": False,
        "processed_at": moment,
    }
    scored = {
        "outcome": "scored",
        "anomaly_score": 0.98765432,
        "is_anomaly": True,
        "anomaly_reasons": ["burst_of_activity", "risky_merchant"],
        "model_version": "3",
        "feature_set_id": "fs_1",
    }
    made = [
        base | {"kafka_offset": 0, "revision": 1, "outcome": "unscored", "unscored_reason": "MODEL_DOWN"},
        base | {"kafka_offset": 0, "revision": 2} | scored,
        base | {"kafka_offset": 1, "revision": 1, "late": True} | scored,
        base | {"kafka_offset": 2, "revision": 1, "outcome": "duplicate", "decision": None},
    ]
    with closing(psycopg2.connect(topic.settings.postgres_dsn)) as connection:
        with connection, connection.cursor() as cursor:
            for row in made:
                values = row | {"id": row["kafka_offset"] << 4 | row["revision"], "features": b"\0" * 88}
                values |= {"transaction_id": f"t{row['kafka_offset']}"}
                names, marks = ", ".join(values), ", ".join(f"%({name})s" for name in values)
                cursor.execute(f"INSERT INTO decisions ({names}) VALUES ({marks})", values)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM decisions WHERE kafka_topic = %s ORDER BY id", (topic.name,))
            names = [column.name for column in cursor.description or ()]
            yield [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    with closing(psycopg2.connect(topic.settings.postgres_migrator_dsn)) as connection, connection:
        connection.cursor().execute("DELETE FROM decisions WHERE kafka_topic = %s", (topic.name,))


def test_a_reindex_writes_what_the_stream_publishes(topic: Topic, rows: list[dict[str, Any]]) -> None:
    published = [json.loads(decision_message(row)["value"]) for row in rows]
    counts = reindex.run(topic.settings, threading.Event(), lambda done: None)
    assert counts.documents >= 4 and counts.parked == 0
    assert topic.found() == {
        "0": published[1] | {"_version": 2},
        "1": published[2] | {"_version": 1},
        "2": published[3] | {"_version": 1},
    }


def test_a_reindex_and_the_indexer_agree(topic: Topic, rows: list[dict[str, Any]]) -> None:
    topic.send(*(decision_message(row)["value"] for row in rows))
    topic.index()
    live = topic.found()
    assert reindex.run(topic.settings, threading.Event(), lambda done: None).parked == 0
    assert topic.found() == live


def test_a_reindex_releases_what_it_could_take_and_keeps_what_it_could_not(
    topic: Topic, rows: list[dict[str, Any]]
) -> None:
    topic.send(b"not a decision", topic.decision(1, colour="red"))
    topic.index()
    assert len(topic.parked()) == 2
    reindex.run(topic.settings, threading.Event(), lambda done: None)
    assert [row[2] for row in topic.parked()] == ["NOT_A_DECISION"]
    assert "1" in topic.found()


def test_a_fresh_reindex_removes_what_postgres_does_not_have(topic: Topic, rows: list[dict[str, Any]]) -> None:
    topic.send(topic.decision(99))
    topic.index()
    assert INDEX in provision.remove(topic.settings)
    provision.apply(topic.settings)
    reindex.run(topic.settings, threading.Event(), lambda done: None)
    assert sorted(topic.found()) == ["0", "1", "2"]
