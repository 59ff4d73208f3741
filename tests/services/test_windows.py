"""Windowed metrics on real servers: Spark's counts against a plain recomputation, and the page that shows them."""

import json
import random
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count as numbers
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx
import psycopg2
import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from api.app import create_app
from feature_repo.settings import Settings
from infra.local import java
from infra.local.jars import spark_jars
from streaming.window_job import CHECKPOINT, count, session
from streaming.window_store import COLUMNS, WindowStore
from tests.cases.model_service import running
from tests.unit.test_contracts import validator

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, PAUSE, LATENESS = timedelta(minutes=1), timedelta(minutes=5), timedelta(seconds=5)
Message = dict[str, Any]


@pytest.fixture(scope="module")
def spark(stack: Settings) -> Iterator["SparkSession"]:
    from pyspark import SparkContext

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(java.find(stack).home))
        found = session(stack, spark_jars(stack))
        yield found
        gateway = SparkContext._gateway
        found.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # its Java ends with it
        SparkContext._gateway = None


class Decided:
    """Decision messages of a test's own: a topic, and keys nobody else counts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topic = f"decided-{uuid.uuid4().hex[:8]}"
        self.admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
        self.admin.create_topics([NewTopic(self.topic, 2, 1)])[self.topic].result(30)
        self._offsets = numbers()

    def message(self, user: int, at: datetime, arrived: datetime | None = None, **changes: Any) -> Message:
        offset = next(self._offsets)
        message = {
            "decision_id": f"transactions-0-{offset}", "revision": 1, "ingested_at": text(arrived or at),
            "kafka_topic": "transactions", "kafka_partition": 0, "kafka_offset": offset,
            "transaction_id": f"t{offset}", "user_id": f"{self.topic}-{user}", "amount": 10.25 + offset % 7,
            "currency": "USD", "event_time": text(at), "merchant": f"{self.topic}, \"Caf\u00e9\" {user % 3}",
            "location": "l", "payment_method": f"{self.topic}-{user % 2}", "outcome": "scored",
            "unscored_reason": None, "anomaly_score": 0.5, "is_anomaly": offset % 5 == 0, "anomaly_reasons": [],
            "decision": "approve", "model_version": "1", "feature_set_id": "fs_0123456789abcdef",
            "ruleset_version": "v0", "late": False, "processed_at": text(arrived or at), **changes,
        }  # fmt: skip
        validator("decisions").validate(message)
        return message

    def send(self, messages: list[Message | str]) -> None:
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
        for number, message in enumerate(messages):
            value = message if isinstance(message, str) else json.dumps(message)
            producer.produce(self.topic, value, partition=number % 2)
        assert producer.flush(30) == 0

    def count(self, spark: "SparkSession") -> None:
        """A run of `vigil windows --until-caught-up`, within a session that is there already."""
        count(spark, self.settings, Event(), topic=self.topic, until_caught_up=True)

    def windows(self) -> dict[tuple[str, str, datetime], tuple[Any, ...]]:
        rows = self.query(f"SELECT {COLUMNS} FROM payment_windows WHERE starts_with(key, %s)", self.topic)
        return {(kind, key, ended): (started, *measures) for kind, key, started, ended, *measures in rows}

    def late(self) -> dict[str, int]:
        """By query, since its checkpoint began."""
        return dict(self.query("SELECT query, late FROM window_progress WHERE query IN ('windows', 'sessions')"))

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()


@pytest.fixture
def decided(stack: Settings) -> Iterator[Decided]:
    shutil.rmtree(stack.home / CHECKPOINT, ignore_errors=True)
    yield Decided(stack)
    shutil.rmtree(stack.home / CHECKPOINT, ignore_errors=True)


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def at(message: Message) -> datetime:
    return min(datetime.fromisoformat(message[name]) for name in ("event_time", "ingested_at"))


def expected(messages: list[Message]) -> dict[tuple[str, str, datetime], tuple[Any, ...]]:
    """The same by hand: every window of `messages`, all of which count."""
    groups: dict[tuple[str, str, datetime], list[Message]] = defaultdict(list)
    users: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        ended = at(message).replace(second=0, microsecond=0) + MINUTE
        for kind in ("merchant", "payment_method"):
            groups[kind, message[kind], ended].append(message)
        users[message["user_id"]].append(message)
    windows = {key: (key[2] - MINUTE, *measures(group)) for key, group in groups.items()}
    for user, own in users.items():
        own.sort(key=at)
        burst = [own[0]]
        for message in [*own[1:], None]:
            if message is not None and at(message) - at(burst[-1]) < PAUSE:
                burst.append(message)
                continue
            if len(burst) > 1:
                windows["user", user, at(burst[-1]) + PAUSE] = (at(burst[0]), *measures(burst))
            if message is not None:
                burst = [message]
    return windows


def measures(group: list[Message]) -> tuple[int, int, int, Decimal]:
    scored = [message for message in group if message["outcome"] == "scored"]
    flagged = [message for message in scored if message["is_anomaly"]]
    return len(group), len(scored), len(flagged), sum((Decimal(str(m["amount"])) for m in group), Decimal(0))


NOTHING = dict.fromkeys(("anomaly_score", "is_anomaly", "model_version", "feature_set_id"))
UNSCORED = {**NOTHING, "outcome": "unscored", "decision": "review"}
REPEATED = {**NOTHING, "outcome": "duplicate", "decision": None}


def test_windows_hold_what_a_plain_recomputation_finds(spark: "SparkSession", decided: Decided) -> None:
    draw = random.Random(5)

    def payments(first: float, last: float, how_many: int) -> list[Message]:
        moments = sorted(draw.uniform(first, last) for _ in range(how_many))
        return [decided.message(draw.randrange(12), NOON + timedelta(seconds=s)) for s in moments]

    before = payments(0, 170, 150)
    newest = NOON + timedelta(seconds=171)
    # Stamped ahead as far as the contract allows: counted when it came, and nobody after it is late for that.
    ahead = decided.message(3, newest + timedelta(minutes=5), arrived=newest)
    unscored = decided.message(4, newest, **UNSCORED, unscored_reason="MODEL_DOWN")
    foreign = decided.message(5, newest, currency="EUR", **UNSCORED, unscored_reason="CURRENCY_UNSUPPORTED")
    again = decided.message(6, newest, **REPEATED)
    scored_later = {**unscored, "revision": 2, "outcome": "scored", "is_anomaly": True}
    sent_twice = before[:9]
    decided.send([*before, ahead, unscored, foreign, again, scored_later, *sent_twice, "{", "null"])
    decided.count(spark)
    counted = [*before, ahead, unscored]
    minutes = {key: row for key, row in expected(counted).items() if key[0] != "user"}
    assert decided.windows() == minutes  # no burst is over yet

    watermark = newest - LATENESS
    late = [decided.message(7, watermark), decided.message(7, watermark - MINUTE), *before[:2]]
    just = decided.message(7, watermark + timedelta(milliseconds=1))
    after = payments(172, 400, 150)
    closing = [decided.message(20, NOON + timedelta(hours=1))]
    decided.send([*late, just, ahead, unscored, *after, *closing])  # two of them known from before the restart
    decided.count(spark)
    counted += [just, *after, *closing]
    assert decided.windows() == expected(counted)
    assert decided.late() == {"windows": len(late), "sessions": len(late)}


def test_without_its_checkpoint_it_counts_anew_and_no_window_becomes_smaller(
    spark: "SparkSession", decided: Decided
) -> None:
    """As after `rm`, with a topic that no longer holds the beginning of a minute and of a burst."""
    steps = [NOON + timedelta(seconds=20 * n) for n in range(12)]
    messages = [decided.message(user, moment) for moment in steps for user in (1, 2)]
    hour = NOON + timedelta(hours=1)
    closing = [decided.message(user, hour) for user in (8, 9)]
    decided.send([*messages, *closing])
    decided.count(spark)
    whole = decided.windows()
    assert whole == expected([*messages, *closing])

    shutil.rmtree(decided.settings.home / CHECKPOINT)
    forgotten = [TopicPartition(decided.topic, partition, 4) for partition in (0, 1)]
    for done in decided.admin.delete_records(forgotten).values():
        done.result(30)
    later = [decided.message(user, hour + timedelta(seconds=30)) for user in (10, 11)]
    decided.send(later)
    decided.count(spark)
    assert decided.windows() == expected([*messages, *closing, *later])
    assert decided.late() == {"windows": 0, "sessions": 0}


# ---- the table and the page, without Spark --------------------------------------------------------------


def table(*rows: tuple[str, str, datetime, datetime, int, int, int, str]) -> pa.Table:
    names = COLUMNS.split(", ")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]).set_column(
        names.index("amount"), "amount", pa.array([Decimal(row[-1]) for row in rows], pa.decimal128(28, 4))
    )


@pytest.fixture
def store(stack: Settings) -> Iterator[WindowStore]:
    found = WindowStore(stack.postgres_dsn)
    yield found
    found.close()


def test_the_fuller_of_two_rows_of_a_window_stays(decided: Decided, store: WindowStore) -> None:
    def row(payments: int, amount: str) -> pa.Table:
        return table(("merchant", decided.topic, NOON, NOON + MINUTE, payments, 1, 1, amount))

    for payments, amount in ((2, "5.5"), (3, "9.0001"), (3, "9.0001"), (1, "2")):
        store.write(row(payments, amount))
    (kept,) = decided.windows().values()
    assert kept == (NOON, 3, 1, 1, Decimal("9.0001"))


def test_a_batch_is_noted_once_and_another_run_counts_anew(decided: Decided, store: WindowStore) -> None:
    first, second, query = str(uuid.uuid4()), str(uuid.uuid4()), decided.topic
    for run, batch, late in ((first, 0, 2), (first, 1, 3), (first, 1, 3), (first, 0, 2)):
        store.note(query, run, batch, text(NOON), late)
    assert decided.query("SELECT batch, late FROM window_progress WHERE query = %s", query) == [(1, 5)]
    store.note(query, second, 0, text(NOON), 1)
    assert decided.query("SELECT batch, late FROM window_progress WHERE query = %s", query) == [(0, 1)]


def test_the_page_lists_windows_newest_first_and_says_which_are_final(
    stack: Settings, decided: Decided, store: WindowStore
) -> None:
    key, run = decided.topic, str(uuid.uuid4())
    ends = [NOON + n * MINUTE for n in range(1, 6)]
    store.write(table(*(("payment_method", key, end - MINUTE, end, 4, 2, 1, "10") for end in ends)))
    store.write(table(("user", key, NOON, NOON + PAUSE, 3, 0, 0, "1")))
    store.note("windows", run, 1, text(ends[2]), 7)
    with running(create_app(stack)) as url, httpx.Client(base_url=url, timeout=30) as client:

        def got(**query: Any) -> dict[str, Any]:
            answer = client.get("/metrics/windows", params={"key": key, "kind": "payment_method", **query})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        assert [item["ended_at"] for item in got()["items"]] == [text(end) for end in reversed(ends)]
        assert [item["final"] for item in got()["items"]] == [False, False, True, True, True]
        within = got(**{"from": text(ends[0]), "to": text(ends[3])})
        assert [item["ended_at"] for item in within["items"]] == [text(end) for end in reversed(ends[1:4])]
        page, paged = got(limit=2), []
        while True:
            paged += page["items"]
            if page["next_cursor"] is None:
                break
            page = got(limit=2, cursor=page["next_cursor"])
        assert paged == got()["items"]
        assert (page["watermark"], page["late_payments"]) == (text(ends[2]), 7)
        item = paged[0]
        assert (item["amount"], item["mean_amount"], item["flagged_share"]) == (10.0, 2.5, 0.5)
        (burst,) = got(kind="user")["items"]
        assert (burst["payments"], burst["flagged_share"], burst["final"]) == (3, None, True)
        assert got(kind="merchant")["items"] == []
        stale = client.get("/metrics/windows", params={"kind": "user", "cursor": got(limit=2)["next_cursor"]})
        assert stale.json()["code"] == "CURSOR_INVALID"
