"""Operators' commands on real servers: dead letters produced again, stores compared, old days dropped, late scores."""

import asyncio
import json
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic
from elasticsearch import Elasticsearch
from typer.testing import CliRunner

from api.postgres import Database
from api.prepared import PreparedDatabase
from api.transactions.repository import TransactionRepository
from api.transactions.schemas import ListFilters
from feature_repo.errors import BadConfiguration, DeadLetterUnknown, DependencyDown, Unreconciled
from feature_repo.parser import ParseOptions
from feature_repo.settings import Settings
from infra.sql import migrate
from pipelines import dead_letters, log, retention
from pipelines.backfill import Backfill, Backfilled
from pipelines.cli import app
from pipelines.dead_letters import Asked
from pipelines.reconcile import documents, run
from streaming import bulk, indexer
from streaming.publish import ALERTS, DECISIONS, ORIGIN_HEADER
from streaming.search import SearchWriter
from tests.cases.decided import PARTITIONS, Stream
from tests.live import environment
from tests.services.test_lifecycle import eventually
from tests.services.test_migrations import database_of_its_own
from tests.unit.road_fakes import PIN, FakePublisher, score_by_amount

NOW = datetime.now(UTC)


def payments(count: int, first: int = 0, users: int = 5, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "transaction_id": f"p{number}",
            "user_id": f"user {number % users}",
            "amount": 10.0 + number,
            "timestamp": (NOW - timedelta(hours=2) + timedelta(seconds=number)).isoformat(),
            "merchant": "Bakery",
            "location": "Zürich",
            "payment_method": "card",
            **changes,
        }
        for number in range(first, first + count)
    ]


def execute(settings: Settings, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """As the owner of the tables, who may break what nobody else can."""
    with closing(psycopg2.connect(settings.postgres_migrator_dsn)) as connection, connection:
        cursor = connection.cursor()
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def stream(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """With a topic of decisions of its own, which nobody indexes; its documents go at the end."""
    stream = Stream(stack)
    decisions = f"decisions-of-{stream.settings.topic}"
    stream.admin.create_topics([NewTopic(decisions, 1, 1)])[decisions].result(30)
    monkeypatch.setattr(indexer, "TOPIC", decisions)
    monkeypatch.setattr(documents, "SETTLE_S", 0.0)
    yield stream
    with search(stack) as client:
        for one in published(stream):
            client.options(ignore_status=404).delete(index=index_of(one), id=one["decision_id"])
    stream.admin.delete_topics([decisions])[decisions].result(30)


def search(settings: Settings) -> Elasticsearch:
    return Elasticsearch(settings.elasticsearch_url, request_timeout=30)


def index_of(decision: dict[str, Any]) -> str:
    return f"decisions-{decision['ingested_at'][:10].replace('-', '.')}"


def published(stream: Stream, topic: str = DECISIONS) -> list[dict[str, Any]]:
    sent: FakePublisher = stream.road._publisher  # type: ignore[assignment]  # the stream of these tests has the fake
    return [json.loads(message["value"]) for name, _, message in sent.sent if name == topic]


def index(stream: Stream) -> None:
    """What the indexer would do with everything that was published."""
    entries = [bulk.entry(json.dumps(one).encode()) for one in published(stream)]
    with SearchWriter(stream.settings, threading.Event()) as writer:
        assert writer.write([entry for entry in entries if entry]) == []


def environment_of(stream: Stream) -> dict[str, str]:
    return environment(stream.settings) | {
        "VIGIL_TOPIC": stream.settings.topic, "VIGIL_PARTITIONS": str(PARTITIONS)
    }  # fmt: skip


def command(stream: Stream, *words: str) -> Any:
    return CliRunner().invoke(app, list(words), env=environment_of(stream))


# ---- dead letters -------------------------------------------------------------------------------------


def raw(stream: Stream, *values: bytes, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": stream.settings.kafka_bootstrap})
    for value in values:
        producer.produce(stream.settings.topic, value, partition=partition, headers={"source": "4111 1111 1111 1111"})
    assert producer.flush(30) == 0


def test_dead_letters_are_listed_newest_first_page_by_page(stream: Stream) -> None:
    raw(stream, b"{", b"no", b"[]")
    raw(stream, b"", partition=1)
    stream.decide()
    everything = dead_letters.listed(stream.settings, Asked())
    assert everything.counts == {"NOT_JSON": 2, "EMPTY": 1, "NOT_OBJECT": 1} and everything.after is None
    arrived = [letter.ingested_at for letter in everything.items]
    assert arrived == sorted(arrived, reverse=True)

    pages, after = [], None
    while not pages or after:
        page = dead_letters.listed(stream.settings, Asked(limit=3, after=after))
        pages.append(page.items)
        after = page.after
    assert [len(page) for page in pages] == [3, 1] and pages[0] + pages[1] == everything.items

    some = dead_letters.listed(stream.settings, Asked(code="NOT_JSON", partition=0, since=NOW - timedelta(days=1)))
    assert some.counts == {"NOT_JSON": 2}
    assert dead_letters.listed(stream.settings, Asked(since=NOW + timedelta(days=1))).items == []
    told = command(stream, "dlq", "list", "--code", "EMPTY", "--json")
    (item,) = json.loads(told.stdout)["items"]
    assert item["coordinates"] == f"{stream.settings.topic}-1-0" and item["code"] == "EMPTY"


def test_a_dead_letter_is_shown_masked_with_its_headers_while_kafka_has_them(stream: Stream) -> None:
    (payment,) = payments(1, merchant="card 4111 1111 1111 1111", location="a colour")
    raw(stream, json.dumps(payment).encode().replace(b"a colour", b"\x1b[31mred"))
    stream.decide()
    shown = command(stream, "dlq", "show", "0-0")
    assert shown.exit_code == 0, shown.output
    assert "4111" not in shown.stdout and "source: **** **** **** ****" in shown.stdout
    assert "\x1b" not in shown.stdout and "\\x1b[31mred" in shown.stdout
    stream.admin.delete_records([TopicPartition(stream.settings.topic, 0, 1)])[
        TopicPartition(stream.settings.topic, 0, 1)
    ].result(30)
    assert json.loads(command(stream, "dlq", "show", "0-0", "--json").stdout)["headers"] is None
    with pytest.raises(DeadLetterUnknown):
        dead_letters.find(stream.settings, f"{stream.settings.topic}-0-7")
    with pytest.raises(BadConfiguration, match="names no record"):
        dead_letters.find(stream.settings, "elsewhere-0-7")


def test_a_payment_that_the_contract_takes_by_now_is_produced_again_and_twice_is_once(stream: Stream) -> None:
    (payment,) = payments(1, timestamp=(NOW + timedelta(hours=1)).isoformat())
    stream.send([payment])
    stream.decide()
    (letter,) = dead_letters.listed(stream.settings, Asked()).items
    assert letter.code == "TIME_FUTURE"
    later = (NOW + timedelta(hours=2)).timestamp
    for _ in range(2):
        done, refused = dead_letters.replay(stream.settings, [letter], "somebody", clock=later)
        assert not refused and done[0].origin == letter.coordinates
    partition, offset = (int(part) for part in done[0].produced.split("-")[-2:])
    record = log.record(stream.settings, partition, offset)
    assert record is not None and record.value() == letter.payload
    assert record.headers() == [(ORIGIN_HEADER, letter.coordinates.encode())]

    tolerant = stream.settings.model_copy(update={"future_tolerance_s": 7_200})
    stream.road._options = ParseOptions.of(tolerant)  # an hour has passed, as it were
    stream.decide()
    outcomes = execute(
        stream.settings,
        "SELECT outcome FROM decisions WHERE kafka_topic = %s ORDER BY kafka_offset",
        stream.settings.topic,
    )
    assert outcomes == [("scored",), ("duplicate",)]
    audited = execute(
        stream.settings, "SELECT actor, after FROM audit WHERE action = 'replay_dead_letter' AND subject = %s",
        letter.coordinates,
    )  # fmt: skip
    assert audited == [("somebody", {"topic": stream.settings.topic, "partition": partition})] * 2


def test_what_is_not_whole_or_still_no_payment_is_refused_by_name(stream: Stream) -> None:
    (masked,) = payments(1, merchant="4111 1111 1111 1111")
    (long,) = payments(1, amount=-1.0, location="x" * 5_000)
    (misplaced,) = payments(1)
    raw(stream, json.dumps(masked).encode(), json.dumps(long).encode(), b"{}")
    for partition in range(PARTITIONS):
        raw(stream, json.dumps(misplaced).encode(), partition=partition)
    stream.decide()
    letters = dead_letters.listed(stream.settings, Asked()).items
    done, refused = dead_letters.replay(stream.settings, letters, "somebody")
    by_code = {letter.code: letter.coordinates for letter in letters}
    assert not done
    assert {str(error).split(":")[0]: error.code for error in refused} == {
        by_code["PAN_DETECTED"]: "PAYLOAD_INCOMPLETE",
        by_code["TEXT_FORMAT" if "TEXT_FORMAT" in by_code else "RANGE"]: "PAYLOAD_INCOMPLETE",
        by_code["FIELD_MISSING"]: "NOT_A_PAYMENT",
        by_code["REKEYED"]: "ALREADY_PRODUCED",
    }
    told = command(stream, "dlq", "replay", "--code", "FIELD_MISSING")
    assert told.exit_code == 2 and "NOT_A_PAYMENT" in told.stdout and "0 produced again, 1 refused" in told.stdout
    assert isinstance(command(stream, "dlq", "replay").exception, BadConfiguration)


# ---- reconciliation -----------------------------------------------------------------------------------


@pytest.fixture
def reconciled(stream: Stream) -> Stream:
    """Decided in three ranges, duplicates and dead letters among them, and indexed; user 0 lies in partition 0."""
    sent = payments(60)
    for piece in (sent[:20], [*sent[19:40], {**sent[3], "amount": -1}], sent[40:]):
        stream.send(piece)
        stream.decide()
    index(stream)
    return stream


def codes(stream: Stream, **options: Any) -> set[str]:
    return {finding.code for finding in run.check(stream.settings, **options).findings}


def test_stores_that_agree_are_told_so(reconciled: Stream) -> None:
    done = run.check(reconciled.settings)
    assert done.findings == []
    assert (done.offsets, done.records, done.gaps, done.lag) == (62, 62, 0, 0)
    assert (done.decisions, done.dead_letters, done.documents) == (61, 1, 61)
    told = command(reconciled, "reconcile", "--json")
    assert told.exit_code == 0 and json.loads(told.stdout)["offsets"] == 62, told.output
    tomorrow = run.today() + timedelta(days=1)
    assert run.check(reconciled.settings, tomorrow).offsets == 0
    reconciled.send(payments(3, first=100))
    assert run.check(reconciled.settings, run.today(), run.today()).lag == 3


_WHERE = "WHERE kafka_topic = %(topic)s"
_MIDDLE = (
    "(SELECT kafka_partition, first_offset FROM ledger_ranges WHERE kafka_topic = %(topic)s AND first_offset > 0"
    " ORDER BY 1, 2 LIMIT 1)"
)
BROKEN = {
    "a deleted row": (
        f"DELETE FROM decisions {_WHERE} AND transaction_id = 'p7'",
        {"OUTCOME_MISSING", "LEDGER_SUM", "DOCUMENT_SURPLUS"},
    ),
    "a deleted dead letter": (f"DELETE FROM dead_letters {_WHERE}", {"OUTCOME_MISSING", "LEDGER_SUM"}),
    "an offset twice": (
        f"INSERT INTO decisions SELECT * FROM decisions {_WHERE} AND transaction_id = 'p7'",
        {"OUTCOME_TWICE", "LEDGER_SUM"},
    ),
    "an offset in both tables": (
        ("INSERT INTO dead_letters SELECT kafka_topic, kafka_partition, kafka_offset, 'X', 'x', NULL, 0, NULL,"
        f" ingested_at, processed_at FROM decisions {_WHERE} AND transaction_id = 'p7'"),
        {"OUTCOME_TWICE", "LEDGER_SUM"},
    ),
    "a dropped range": (
        f"DELETE FROM ledger_ranges {_WHERE} AND (kafka_partition, first_offset) IN {_MIDDLE}", {"LEDGER_HOLE"},
    ),
    "the last range dropped": (
        (f"DELETE FROM ledger_ranges {_WHERE} AND (kafka_partition, first_offset) IN (SELECT kafka_partition,"
        f" max(first_offset) FROM ledger_ranges {_WHERE} GROUP BY 1)"),
        {"LEDGER_HOLE", "LEDGER_MISPLACED"},
    ),
    "a range over its neighbour": (
        (f"UPDATE ledger_ranges SET first_offset = first_offset - 1 {_WHERE}"
        f" AND (kafka_partition, first_offset) IN {_MIDDLE}"),
        {"LEDGER_OVERLAP", "LEDGER_SUM"},
    ),
    "a range committed before an earlier one": (
        (f"UPDATE ledger_ranges SET committed_at = committed_at - interval '1 hour' {_WHERE}"
        f" AND (kafka_partition, first_offset) IN {_MIDDLE}"),
        {"LEDGER_BACKWARD"},
    ),
    "other counts": (
        f"UPDATE ledger_ranges SET scored = scored + 1, duplicates = duplicates - 1 {_WHERE} AND duplicates > 0",
        {"LEDGER_SUM"},
    ),
    "a range under another model": (
        f"UPDATE ledger_ranges SET model_version = 'another' {_WHERE} AND (kafka_partition, first_offset) IN {_MIDDLE}",
        {"VERSIONS_MIXED"},
    ),
    "a ledger ahead of the topic": (
        f"UPDATE ledger SET committed_until = committed_until + 9 {_WHERE} AND kafka_partition = 0",
        {"LOG_BEHIND", "LEDGER_MISPLACED"},
    ),
    "an id decided twice": (
        f"UPDATE decisions SET transaction_id = 'p5' {_WHERE} AND transaction_id = 'p30'", {"DECIDED_TWICE"}
    ),
    "a range never published": (
        f"UPDATE ledger_ranges SET published_at = NULL {_WHERE} AND first_offset = 0", {"UNPUBLISHED"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_in_postgresql_is_found_and_named(reconciled: Stream, what: str) -> None:
    statement, expected = BROKEN[what]
    topic = reconciled.settings.topic
    with closing(psycopg2.connect(reconciled.settings.postgres_migrator_dsn)) as connection, connection:
        cursor = connection.cursor()
        cursor.execute(statement, {"topic": topic})
        assert cursor.rowcount > 0
    findings = run.check(reconciled.settings).findings
    assert {finding.code for finding in findings} == expected
    assert all(topic in finding.cause and finding.remedy and finding.component for finding in findings)


def test_an_outcome_without_a_record_is_found(reconciled: Stream) -> None:
    """A transaction's marker takes an offset that holds no record: legal, until somebody claims it was decided."""
    producer = Producer(
        {"bootstrap.servers": reconciled.settings.kafka_bootstrap, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    (payment,) = payments(1, first=200)
    producer.produce(reconciled.settings.topic, json.dumps(payment), partition=0)
    producer.commit_transaction(30)
    marked = reconciled.ledger.positions()[0] + 2
    eventually(lambda: log.kept(reconciled.settings)[0][1] == marked)  # the broker writes it after it has answered
    (after,) = payments(1, first=205)
    raw(reconciled, json.dumps(after).encode())
    end = log.kept(reconciled.settings)[0][1]
    reconciled.decide()
    index(reconciled)
    done = run.check(reconciled.settings)
    assert done.findings == [] and done.gaps == 1
    execute(
        reconciled.settings,
        "INSERT INTO dead_letters VALUES (%s, 0, %s, 'X', 'x', NULL, 0, NULL, now(), now())",
        reconciled.settings.topic, end - 2,
    )  # fmt: skip
    assert codes(reconciled) == {"RECORD_MISSING", "LEDGER_SUM"}


def test_what_kafka_no_longer_holds_is_compared_by_the_ledger_alone(reconciled: Stream) -> None:
    ends = [TopicPartition(reconciled.settings.topic, p, at) for p, at in reconciled.ledger.positions().items()]
    for future in reconciled.admin.delete_records(ends).values():
        future.result(30)
    done = run.check(reconciled.settings)
    assert done.findings == [] and done.records == 0 and done.offsets == 62
    execute(
        reconciled.settings, f"DELETE FROM decisions {_WHERE.replace('(topic)', '')} AND transaction_id = 'p7'",
        reconciled.settings.topic,
    )  # fmt: skip
    assert "LEDGER_SUM" in codes(reconciled)


def test_a_document_that_is_gone_is_missed_unless_it_is_parked(reconciled: Stream) -> None:
    (lost, *_) = published(reconciled)
    with search(reconciled.settings) as client:
        client.delete(index=index_of(lost), id=lost["decision_id"])
    findings = run.check(reconciled.settings).findings
    assert [finding.code for finding in findings] == ["DOCUMENT_MISSING"] and lost["decision_id"] in findings[0].cause
    broken = command(reconciled, "reconcile")
    assert isinstance(broken.exception, Unreconciled) and broken.exception.exit_code == 10
    assert "DOCUMENT_MISSING (Elasticsearch)" in broken.stdout and "try: vigil reindex" in broken.stdout
    execute(
        reconciled.settings, "INSERT INTO parked_documents VALUES (%s, 1, 'mapper_parsing_exception', 'r')",
        lost["decision_id"],
    )  # fmt: skip
    done = run.check(reconciled.settings)
    assert done.findings == [] and done.parked == {"mapper_parsing_exception": 1}


def test_a_document_without_a_decision_is_found(reconciled: Stream) -> None:
    (one, *_) = published(reconciled)
    strange = one | {"decision_id": f"{reconciled.settings.topic}-0-99", "kafka_partition": 0, "kafka_offset": 3}
    entry = bulk.entry(json.dumps(strange).encode())
    with SearchWriter(reconciled.settings, threading.Event()) as writer:
        assert entry and writer.write([entry]) == []
    (finding,) = run.check(reconciled.settings).findings
    assert finding.code == "DOCUMENT_SURPLUS" and strange["decision_id"] in finding.cause


def test_an_indexer_that_is_behind_is_said_instead_of_comparing(reconciled: Stream) -> None:
    producer = Producer({"bootstrap.servers": reconciled.settings.kafka_bootstrap})
    producer.produce(indexer.TOPIC, b"{}")
    producer.flush(30)
    assert codes(reconciled) == {"INDEXER_BEHIND"}


def test_following_looks_at_what_came_since_and_ends_by_telling(
    reconciled: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    looks = []

    def tell(done: run.Reconciled) -> None:
        looks.append(done)
        if len(looks) == 1:
            reconciled.send(payments(5, first=300))
            reconciled.decide()
            index(reconciled)
        elif len(looks) == 2:
            execute(
                reconciled.settings, "DELETE FROM ledger_ranges WHERE kafka_topic = %s AND first_offset = 0",
                reconciled.settings.topic,
            )  # fmt: skip
            reconciled.send(payments(2, first=310))
            reconciled.decide()
        else:
            stop.set()

    with pytest.raises(Unreconciled, match="DOCUMENT_MISSING"):
        run.follow(reconciled.settings, 0.01, stop, tell)
    assert [(done.offsets, done.documents) for done in looks] == [(62, 61), (5, 66), (2, 66)]
    assert [[finding.code for finding in done.findings] for done in looks] == [[], [], ["DOCUMENT_MISSING"]]


# ---- retention ----------------------------------------------------------------------------------------

OLD = datetime(1980, 1, 1, 12, tzinfo=UTC)
DAYS = (date(2026, 1, 1) - date(1980, 1, 3)).days  # kept from 1980-01-03


@pytest.fixture
def aged(stream: Stream) -> Iterator[Settings]:
    """A database of its own with five decisions and five dead letters, a day apart from 1980 on, in ranges of two."""
    with database_of_its_own(stream.settings) as settings:
        migrate.upgrade(settings)
        execute(settings, "SELECT ensure_decision_partitions('1980-01-01', 4)")
        for number in range(10):
            moment = OLD + timedelta(days=number // 2)
            if number % 2:
                execute(
                    settings, "INSERT INTO dead_letters VALUES (%s, 0, %s, 'X', 'x', NULL, 0, NULL, %s, %s)",
                    settings.topic, number, moment, moment,
                )  # fmt: skip
                continue
            execute(
                settings,
                "INSERT INTO decisions (id, kafka_topic, kafka_partition, kafka_offset, revision, transaction_id,"
                " user_id, amount, currency, event_time, merchant, location, payment_method, outcome, ruleset_version,"
                " late, ingested_at, processed_at) VALUES (%s, %s, 0, %s, 1, %s, 'u', 1, 'USD', %s, 'm', 'l', 'p',"
                " 'scored', 'v0', false, %s, %s)",
                number << 4 | 1, settings.topic, number, f"t{number}", moment, moment, moment,
            )  # fmt: skip
        for first, until, days in ((0, 2, 0), (2, 5, 2), (5, 8, 3), (8, 10, 4)):
            execute(
                settings,
                "INSERT INTO ledger_ranges VALUES (%s, 0, %s, %s, gen_random_uuid(), NULL, NULL, 'v0', '{}', %s, %s, 0,"
                " 0, %s, %s, now())",
                settings.topic, first, until, until - first, sum(n % 2 == 0 for n in range(first, until)),
                sum(n % 2 for n in range(first, until)), OLD + timedelta(days=days),
            )  # fmt: skip
        execute(settings, "INSERT INTO ledger VALUES (%s, 0, 10)", settings.topic)
        yield settings
    with search(stream.settings) as client:
        for day in ("1980.01.02", "1980.01.03"):
            client.options(ignore_status=404).indices.delete(index=f"decisions-{day}")


def offsets(settings: Settings, table: str, column: str = "kafka_offset") -> list[int]:
    return [offset for (offset,) in execute(settings, f"SELECT {column} FROM {table} ORDER BY 1")]


def test_old_days_go_with_their_documents_and_what_is_kept_still_agrees(aged: Settings) -> None:
    with search(aged) as client:
        for day in ("1980.01.02", "1980.01.03"):
            client.indices.create(index=f"decisions-{day}")
        execute(aged, "INSERT INTO parked_documents VALUES (%s, 1, 'c', 'r')", f"{aged.topic}-0-2")
        execute(aged, "INSERT INTO parked_documents VALUES (%s, 1, 'c', 'r')", f"{aged.topic}-0-4")
        execute(aged, "INSERT INTO labels VALUES ('t0', now(), 's', true)")
        for day in (0, 3):
            execute(
                aged,
                "INSERT INTO payment_windows (kind, key, started_at, ended_at, payments, scored, flagged, amount)"
                " VALUES ('merchant', 'm', %s, %s, 1, 1, 0, 1)",
                OLD + timedelta(days=day), OLD + timedelta(days=day, minutes=1),
            )  # fmt: skip

        plan = retention.run(aged, DAYS, "somebody", dry_run=True, today=date(2026, 1, 1))
        assert plan.kept_from == date(1980, 1, 3) and plan.held is None
        assert {(one.what, one.name) for one in plan.gone} == {
            ("partition", "decisions_19800101"), ("partition", "decisions_19800102"), ("rows", "dead_letters"),
            ("rows", "ledger_ranges"), ("rows", "parked_documents"), ("rows", "payment_windows"),
            ("index", "decisions-1980.01.02"),
        }  # fmt: skip
        assert offsets(aged, "decisions") == [0, 2, 4, 6, 8] and plan.bytes > 0

        done = retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1))
        assert done.gone == plan.gone
        assert offsets(aged, "decisions") == [4, 6, 8] and offsets(aged, "dead_letters") == [5, 7, 9]
        assert offsets(aged, "ledger_ranges", "first_offset") == [2, 5, 8], "2 to 5 holds a record that is kept"
        assert execute(aged, "SELECT count(*) FROM parked_documents") == [(1,)]
        assert execute(aged, "SELECT count(*) FROM payment_windows") == [(1,)]
        assert execute(aged, "SELECT count(*) FROM labels") == [(1,)]
        assert execute(aged, "SELECT actor, after -> 'offsets' FROM audit WHERE action = 'retention'") == [
            ("somebody", {f"{aged.topic}-0": 4})
        ]
        assert client.indices.exists(index="decisions-1980.01.03")
        assert not client.indices.exists(index="decisions-1980.01.02")
        assert retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1)).gone == []

        raw_log(aged, 10)
        found = {finding.code for finding in run.check(aged).findings}
        assert found == {"DOCUMENT_MISSING"}, "nothing was ever indexed, and all else agrees"


def raw_log(settings: Settings, count: int) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
    for _ in range(count):
        producer.produce(settings.topic, b"", partition=0)
    assert producer.flush(30) == 0


def test_what_waits_to_be_published_or_indexed_holds_its_day(aged: Settings) -> None:
    execute(aged, "UPDATE ledger_ranges SET published_at = NULL WHERE first_offset = 2")
    done = retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1))
    assert done.kept_from == date(1980, 1, 2) and done.held and "published" in done.held
    assert offsets(aged, "decisions") == [2, 4, 6, 8]

    execute(aged, "UPDATE ledger_ranges SET published_at = now()")
    producer = Producer({"bootstrap.servers": aged.kafka_bootstrap})
    producer.produce(indexer.TOPIC, b'{"decision_id":"x","revision":1,"ingested_at":"1980-01-02T12:00:00.000000Z"}')
    producer.flush(30)
    done = retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1))
    assert done.kept_from == date(1980, 1, 2) and done.held and "indexed" in done.held and done.gone == []


def test_rows_outside_every_day_go_from_the_default_partition(aged: Settings) -> None:
    execute(
        aged, "INSERT INTO decisions SELECT (jsonb_populate_record(d, %s)).* FROM decisions d LIMIT 1",
        json.dumps({"ingested_at": "1979-06-01T00:00:00Z"}),
    )  # fmt: skip
    done = retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1))
    assert ("decisions_default", 1) in {(one.name, one.rows) for one in done.gone}
    assert execute(aged, "SELECT count(*) FROM decisions WHERE ingested_at < '1980-01-01'") == [(0,)]


def test_a_partition_that_a_killed_run_detached_goes_with_the_next(aged: Settings) -> None:
    execute(aged, "ALTER TABLE decisions DETACH PARTITION decisions_19800101")
    assert "decisions_19800101" in {one.name for one in retention.run(aged, DAYS, "x", today=date(2026, 1, 1)).gone}
    assert execute(aged, "SELECT to_regclass('public.decisions_19800101')") == [(None,)]


def test_a_long_query_is_waited_for_and_writers_do_not_queue_behind(
    aged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_WAIT_MS", 50)
    monkeypatch.setattr(retention, "LOCK_TRIES", 2)
    monkeypatch.setattr(retention, "LOCK_PAUSE_S", 0.01)
    with closing(psycopg2.connect(aged.postgres_dsn)) as reading:
        reading.cursor().execute("SELECT count(*) FROM decisions")
        with pytest.raises(DependencyDown, match="lock timeout"):
            retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1))
    assert retention.run(aged, DAYS, "somebody", today=date(2026, 1, 1)).gone


# ---- backfill -----------------------------------------------------------------------------------------


@pytest.fixture
def silent(stream: Stream) -> Stream:
    """Twenty payments decided while the model was away, one of them in another currency, and five with it."""
    sent = payments(20)
    sent[4]["currency"] = "EUR"
    sent[5]["amount"] = 1e6
    stream.send(sent)
    stream.decide(pin=None)
    stream.send(payments(5, first=50))
    stream.decide()
    return stream


def backfill(stream: Stream, **changes: Any) -> Backfilled:
    publisher = changes.get("publisher", stream.road._publisher)
    return Backfill(stream.settings, stream.ledger, publisher, score_by_amount, "somebody").run(PIN)


def revisions(stream: Stream, which: str = "revision, outcome, model_version") -> list[tuple[Any, ...]]:
    return execute(
        stream.settings,
        f"SELECT {which}, count(*) FROM decisions WHERE kafka_topic = %s GROUP BY {which} ORDER BY {which}",
        stream.settings.topic,
    )


AFTER = [(1, "scored", "7", 5), (1, "unscored", None, 20), (2, "scored", "7", 19)]


def test_what_had_no_model_is_scored_later_and_the_newest_revision_is_shown(silent: Stream) -> None:
    index(silent)
    assert codes(silent) == set()
    done = backfill(silent)
    assert (done.scored, done.flagged, done.without_features, done.versions) == (19, 1, 0, {"7": 19})
    assert revisions(silent) == AFTER
    assert execute(
        silent.settings,
        "SELECT count(*) FROM decisions a JOIN decisions b ON b.id = a.id + 1 AND b.kafka_topic = a.kafka_topic"
        " WHERE a.kafka_topic = %s AND (a.features, a.side_inputs, a.late, a.ingested_at, a.event_time, a.amount)"
        " IS NOT DISTINCT FROM (b.features, b.side_inputs, b.late, b.ingested_at, b.event_time, b.amount)",
        silent.settings.topic,
    ) == [(19,)]
    late = [one for one in published(silent) if one["revision"] == 2]
    assert len(late) == 19 and {one["model_version"] for one in late} == {"7"}
    (alert,) = [one for one in published(silent, ALERTS) if one["revision"] == 2]
    assert alert["transaction_id"] == "p5" and alert["anomaly_reasons"] and alert["decision"] == "review"

    assert codes(silent) == {"DOCUMENT_OUTDATED"}
    index(silent)
    assert codes(silent) == set()
    with search(silent.settings) as client:
        found = client.get(index=index_of(late[0]), id=late[0]["decision_id"])["_source"]
    assert found == late[0]
    assert backfill(silent).scored == 0 and revisions(silent) == AFTER
    audited = execute(
        silent.settings,
        "SELECT sum((after ->> 'scored')::int) FROM audit WHERE action = 'backfill' AND subject LIKE %s",
        f"{silent.settings.topic}-%",
    )  # fmt: skip
    assert audited == [(19,)]


def test_the_api_answers_the_newest_revision(silent: Stream) -> None:
    backfill(silent)
    dsn = silent.settings.postgres_reader_dsn

    async def listed() -> bytes:
        prepared = PreparedDatabase(dsn)
        try:
            with closing(Database(dsn)) as database:
                asked = ListFilters(user_id="user 0", limit=500)
                return (await TransactionRepository(database, prepared).page(asked, None, datetime.now(UTC))).content
        finally:
            await prepared.close()

    items = json.loads(b"[" + asyncio.run(listed()) + b"]")
    ours = [item for item in items if item["decision_id"].startswith(f"{silent.settings.topic}-")]
    assert {item["transaction_id"]: item["revision"] for item in ours} == {
        "p0": 2, "p5": 2, "p10": 2, "p15": 2, "p50": 1,
    }  # fmt: skip


def test_a_model_that_falls_silent_scores_nothing_and_leaves_nothing_half(silent: Stream) -> None:
    def silent_model(features: Any, pin: Any) -> Any:
        return score_by_amount(features, None)

    with pytest.raises(DependencyDown, match="no score"):
        Backfill(silent.settings, silent.ledger, FakePublisher(), silent_model, "x").run(PIN)  # type: ignore[arg-type]
    assert revisions(silent) == [(1, "scored", "7", 5), (1, "unscored", None, 20)]


def test_a_range_that_was_not_published_before_its_backfill_is_published_whole(
    silent: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        silent.settings, "UPDATE ledger_ranges SET published_at = NULL WHERE kafka_topic = %s", silent.settings.topic
    )
    monkeypatch.setattr("pipelines.backfill.publish_unpublished", lambda *_: 0)  # the stream commits them after it
    publisher = FakePublisher()
    one = Backfill(silent.settings, silent.ledger, publisher, score_by_amount, "somebody")  # type: ignore[arg-type]
    assert one.run(PIN).scored == 19
    sent = [json.loads(message["value"]) for topic, _, message in publisher.sent if topic == DECISIONS]
    assert Counter(document["revision"] for document in sent) == {1: 20, 2: 19}
    unpublished = "SELECT unscored FROM ledger_ranges WHERE kafka_topic = %s AND published_at IS NULL"
    assert set(execute(silent.settings, unpublished, silent.settings.topic)) == {(0,)}, (
        "what waits for no score is not its"
    )


KILLED = """
import os, signal, sys
from feature_repo import settings as configuration
from pipelines import backfill
from streaming.ledger import Ledger
from tests.unit.road_fakes import PIN, FakePublisher, score_by_amount

class Killed(FakePublisher):
    def flush(self):
        os.kill(os.getpid(), signal.SIGKILL)

calls = 0
def scorer(features, pin):
    global calls
    calls += 1
    if sys.argv[1] == "scoring" and calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return score_by_amount(features, pin)

settings = configuration.load()
backfill.LOT_ROWS = 4
publisher = Killed() if sys.argv[1] == "publishing" else FakePublisher()
backfill.Backfill(settings, Ledger(settings.postgres_dsn, settings.topic), publisher, scorer, "killed").run(PIN)
"""


@pytest.mark.parametrize("where", ["scoring", "publishing"])
def test_a_backfill_that_is_killed_is_gone_on_with_and_everything_is_published(silent: Stream, where: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, where], env=environment_of(silent), check=False)
    assert killed.returncode == -9
    (*_, (revision, _, _, some)) = revisions(silent)
    assert revision == 2 and (some == 4 if where == "scoring" else 4 < some < 19)  # one lot, or all of a range
    publisher = FakePublisher()
    done = backfill(silent, publisher=publisher)
    assert done.scored == 19 - some and done.republished == 1
    assert revisions(silent) == AFTER
    sent = [json.loads(message["value"]) for topic, _, message in publisher.sent if topic == DECISIONS]
    assert len({one["decision_id"] for one in sent if one["revision"] == 2}) == 19
    assert execute(
        silent.settings, "SELECT count(*) FROM ledger_ranges WHERE kafka_topic = %s AND published_at IS NULL",
        silent.settings.topic,
    ) == [(0,)]  # fmt: skip
