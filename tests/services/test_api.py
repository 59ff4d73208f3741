"""The query service over real stores: every page, every filter, the right revision, and search."""

import csv
import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg2 import sql
from psycopg2.extras import execute_values

from api.app import create_app
from api.explain.schemas import Explanation
from api.transactions.schemas import Decision, DecisionDetail
from feature_repo import kernel, state
from feature_repo.features import NAMES, WIDTH, feature_set_id
from feature_repo.hashing import events_of, hash_texts, partitions_of
from feature_repo.parser import parse_one
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from feature_repo.transaction import rfc3339
from tests.cases.model_service import FolderSource, MemoryStates, listening, running, settings_for, worker_for
from tests.cases.tiny_model import COLUMNS

START = datetime(2001, 3, 4, 12, tzinfo=UTC)
TOPIC = f"api-{uuid.uuid4().hex[:8]}"
USER = f"user-{uuid.uuid4().hex[:8]}"

Row = dict[str, Any]


def decision(number: int, **changes: Any) -> Row:
    """A row of `decisions`; numbers make ties in event time, several amounts, versions and outcomes."""
    is_anomaly = number % 5 == 0
    row: Row = {
        "kafka_topic": TOPIC,
        "kafka_partition": number % 3,
        "kafka_offset": number,
        "revision": 1,
        "transaction_id": f"{TOPIC}-{number}",
        "user_id": USER,
        "amount": 10 + number,
        "currency": "USD",
        "event_time": START + timedelta(minutes=number // 4),
        "merchant": ["Corner Café", "Online Store", "Toys (R) Us"][number % 3],
        "location": ["New York", "New Haven", "York", "Boston"][number % 4],
        "payment_method": ["credit_card", "debit_card"][number % 2],
        "outcome": "scored",
        "unscored_reason": None,
        "anomaly_score": 0.9 if is_anomaly else 0.1,
        "is_anomaly": is_anomaly,
        "anomaly_reasons": ["unusual_amount_for_user", "burst_of_activity"] if is_anomaly else None,
        "reason_shares": [0.5, 0.25] if is_anomaly else None,
        "decision": "review" if is_anomaly else "approve",
        "model_version": str(1 + number % 2),
        "feature_set_id": "fs_1",
        "ruleset_version": "v0",
        "features": np.linspace(0, number, WIDTH, dtype="<f4").tobytes(),
        "late": False,
        "ingested_at": START + timedelta(minutes=number // 4, seconds=1),
        "processed_at": START + timedelta(minutes=number // 4, seconds=2),
        **changes,
    }
    return {"id": row["kafka_partition"] << 48 | row["kafka_offset"] << 4 | row["revision"], **row}


def unscored(number: int, **changes: Any) -> Row:
    nothing = dict.fromkeys(
        ("anomaly_score", "is_anomaly", "anomaly_reasons", "reason_shares", "model_version", "feature_set_id")
    )
    return decision(
        number,
        **{"outcome": "unscored", "unscored_reason": "MODEL_DOWN", "decision": "review", **nothing, **changes},
    )


def repeated(number: int, **changes: Any) -> Row:
    nothing = dict.fromkeys(("anomaly_score", "is_anomaly", "anomaly_reasons", "reason_shares", "features"))
    return decision(number, **{"outcome": "duplicate", "decision": None, **nothing, **changes})


ROWS = [decision(number) for number in range(120)]


@pytest.fixture(scope="module")
def insert(stack: Settings) -> Callable[[list[Row]], None]:
    def call(rows: list[Row]) -> None:
        columns = list(rows[0])
        statement = sql.SQL("INSERT INTO decisions ({}) VALUES %s").format(
            sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with closing(psycopg2.connect(stack.postgres_dsn)) as connection, connection, connection.cursor() as cursor:
            execute_values(cursor, statement.as_string(connection), [[row[c] for c in columns] for row in rows])

    return call


@pytest.fixture(scope="module")
def topic(stack: Settings) -> str:
    """Of payments, for this module alone."""
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(30)
    return TOPIC


@pytest.fixture(scope="module")
def api(stack: Settings, topic: str, insert: Callable[[list[Row]], None]) -> Iterator[httpx.Client]:
    insert(ROWS)
    settings = stack.model_copy(update={"topic": topic})
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def got(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def pages(api: httpx.Client, path: str, **parameters: Any) -> list[list[dict[str, Any]]]:
    """Every page of a query, following its cursors."""
    found, cursor = [], None
    while True:
        page = got(api.get(path, params={**parameters, **({"cursor": cursor} if cursor else {})}))
        found.append(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def ids(found: list[list[dict[str, Any]]]) -> list[str]:
    return [item["transaction_id"] for page in found for item in page]


def newest_first(rows: list[Row]) -> list[str]:
    ordered = sorted(rows, key=lambda row: (row["event_time"], row["id"]), reverse=True)
    return [row["transaction_id"] for row in ordered]


@pytest.mark.parametrize("limit", [1, 7, 40, 119, 120, 500])
def test_pages_have_no_gap_and_no_repetition(api: httpx.Client, limit: int) -> None:
    found = pages(api, "/transactions", user_id=USER, limit=limit)
    assert ids(found) == newest_first(ROWS)
    assert all(len(page) == limit for page in found[:-1])


def test_the_default_page_has_fifty(api: httpx.Client) -> None:
    assert len(got(api.get("/transactions", params={"user_id": USER}))["items"]) == 50


def test_payments_that_arrive_while_someone_reads_do_not_move_the_pages(
    api: httpx.Client, insert: Callable[[list[Row]], None]
) -> None:
    user = f"{USER}-moving"
    past = [decision(1000 + i, user_id=user) for i in range(20)]
    insert(past)
    first = got(api.get("/transactions", params={"user_id": user, "limit": 5}))
    insert([decision(2000 + i, user_id=user) for i in range(7)])
    rest = pages(api, "/transactions", user_id=user, limit=5, cursor=first["next_cursor"])
    assert ids([first["items"], *rest[:1]]) == newest_first(past)[:10]
    second = got(api.get("/transactions", params={"user_id": user, "limit": 5, "cursor": first["next_cursor"]}))
    third = got(api.get("/transactions", params={"user_id": user, "limit": 5, "cursor": second["next_cursor"]}))
    assert ids([first["items"], second["items"], third["items"]]) == newest_first(past)[:15]


MIDDLE = START + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("parameters", "keep"),
    [
        ({"from": MIDDLE.isoformat()}, lambda row: row["event_time"] >= MIDDLE),
        ({"start_time": MIDDLE.isoformat()}, lambda row: row["event_time"] >= MIDDLE),
        ({"to": MIDDLE.isoformat()}, lambda row: row["event_time"] < MIDDLE),
        ({"end_time": MIDDLE.isoformat()}, lambda row: row["event_time"] < MIDDLE),
        ({"from": "2001-03-04", "to": "2001-03-05"}, lambda row: True),
        ({"from": "2001-03-05"}, lambda row: False),
        ({"min_amount": "50.5"}, lambda row: row["amount"] >= 50.5),
        ({"max_amount": "50"}, lambda row: row["amount"] <= 50),
        ({"is_anomaly": "true"}, lambda row: row["is_anomaly"]),
        ({"is_anomaly": "false"}, lambda row: not row["is_anomaly"]),
        ({"model_version": "2"}, lambda row: row["model_version"] == "2"),
        ({"decision": "review"}, lambda row: row["decision"] == "review"),
        ({"outcome": "unscored"}, lambda row: False),
        ({"reason": "burst_of_activity"}, lambda row: row["is_anomaly"]),
        ({"reason": "impossible_travel"}, lambda row: False),
        ({"merchant": "Toys (R) Us"}, lambda row: row["merchant"] == "Toys (R) Us"),
        ({"location": "York"}, lambda row: row["location"] == "York"),
        ({"payment_method": "debit_card"}, lambda row: row["payment_method"] == "debit_card"),
        (
            {"is_anomaly": "true", "min_amount": "30", "to": MIDDLE.isoformat(), "model_version": "1"},
            lambda row: row["is_anomaly"] and row["amount"] >= 30 and row["event_time"] < MIDDLE
            and row["model_version"] == "1",
        ),
    ],
)  # fmt: skip
def test_a_filter_keeps_exactly_what_it_says(
    api: httpx.Client, parameters: dict[str, str], keep: Callable[[Row], bool]
) -> None:
    found = pages(api, "/transactions", user_id=USER, limit=11, **parameters)
    assert ids(found) == newest_first([row for row in ROWS if keep(row)])


@pytest.mark.parametrize("sort", ["event_time", "amount", "-amount", "anomaly_score", "-anomaly_score"])
def test_another_order_has_no_gap_either(api: httpx.Client, sort: str) -> None:
    name = sort.removeprefix("-")
    ordered = sorted(ROWS, key=lambda row: (row[name], row["id"]), reverse=sort.startswith("-"))
    assert ids(pages(api, "/transactions", user_id=USER, limit=13, sort=sort)) == [r["transaction_id"] for r in ordered]


def test_recent_days_are_enough_only_where_nothing_newer_can_lie_behind_them(
    api: httpx.Client, insert: Callable[[list[Row]], None]
) -> None:
    """A page is read from the newest days of arrival; what came late belongs before what is older by its own time."""
    user, now = f"{USER}-days", datetime.now(UTC)

    def arrived(number: int, days: float, late: float = 0) -> Row:
        came = now - timedelta(days=days)
        times = {"event_time": came - timedelta(days=late), "ingested_at": came, "processed_at": came}
        return decision(number, user_id=user, **times)

    rows = [arrived(20_000 + i, days=i * 2) for i in range(30)]
    rows += [arrived(21_000 + i, days=0.1, late=i * 3) for i in range(10)]
    insert(rows)
    for limit in (3, 10, 100):
        assert ids(pages(api, "/transactions", user_id=user, limit=limit)) == newest_first(rows)
    since = now - timedelta(days=20)
    kept = [row for row in rows if row["event_time"] >= since]
    assert ids(pages(api, "/transactions", user_id=user, limit=4, **{"from": since.isoformat()})) == newest_first(kept)


def test_what_came_late_does_not_hide_what_came_before_it(
    api: httpx.Client, insert: Callable[[list[Row]], None]
) -> None:
    """Of everybody's payments a page is first looked for among the newest by their own time, not by arrival."""
    shop, now = f"{USER}-late", datetime.now(UTC)

    def came(number: int, days: float, ago: float) -> Row:
        arrived = now - timedelta(days=days)
        times = {"event_time": now - timedelta(days=ago), "ingested_at": arrived, "processed_at": arrived}
        return decision(number, user_id=f"{USER}-{number}", merchant=shop, **times)

    rows = [came(23_000 + i, days=0.01, ago=5 + i) for i in range(10)]  # just now, and days late
    rows += [came(23_100 + i, days=2 + i, ago=2 + i) for i in range(10)]  # in time
    insert(rows)
    for limit in (3, 7, 100):
        assert ids(pages(api, "/transactions", merchant=shop, limit=limit)) == newest_first(rows)


def test_a_page_does_not_show_what_a_later_revision_replaced(
    api: httpx.Client, insert: Callable[[list[Row]], None]
) -> None:
    user = f"{USER}-revised"
    pairs = [(unscored(n, user_id=user), decision(n, user_id=user, revision=2)) for n in range(22_000, 22_006)]
    insert([row for pair in pairs for row in pair])
    newest = newest_first([late for _, late in pairs])
    for parameters in ({}, {"sort": "event_time"}, {"limit": 1}, {"limit": 3}, {"sort": "-amount", "limit": 2}):
        found = ids(pages(api, "/transactions", user_id=user, **parameters))
        assert sorted(found) == sorted(newest)
    assert ids(pages(api, "/transactions", user_id=user, outcome="unscored")) == []
    review = pages(api, "/transactions", user_id=user, decision="review")
    assert all(item["revision"] == 2 for page in review for item in page)


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_export_holds_what_the_list_does(api: httpx.Client, form: str) -> None:
    listed = [item for page in pages(api, "/transactions", user_id=USER, limit=50, is_anomaly="true") for item in page]
    response = api.get(f"/transactions.{form}", params={"user_id": USER, "is_anomaly": "true"})
    assert response.headers["Content-Disposition"] == f'attachment; filename="transactions.{form}"'
    if form == "ndjson":
        assert [json.loads(line) for line in response.text.splitlines()] == listed
        return
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["transaction_id"] for row in rows] == [item["transaction_id"] for item in listed]
    assert [float(row["amount"]) for row in rows] == [item["amount"] for item in listed]


def test_an_empty_export_is_a_sheet_without_rows(api: httpx.Client) -> None:
    assert api.get("/transactions.csv?user_id=nobody").text.splitlines() == [",".join(Decision.model_fields)]
    assert api.get("/transactions.ndjson?user_id=nobody").text == ""


def test_stats_count_each_decision_once(api: httpx.Client) -> None:
    body = got(api.get("/stats", params={"from": START.isoformat(), "to": (START + timedelta(hours=1)).isoformat()}))
    listed = [
        item for page in pages(api, "/transactions", limit=500, **{"from": START.isoformat(), "to": "2001-03-05"})
        for item in page if item["event_time"] < rfc3339(START + timedelta(hours=1))
    ]  # fmt: skip
    assert body["total"] == {"decisions": len(listed), "flagged": sum(bool(item["is_anomaly"]) for item in listed)}
    assert sum(body["by_outcome"].values()) == sum(body["by_decision"].values()) == len(listed)
    assert sum(hour["decisions"] for hour in body["by_hour"]) == len(listed)
    for version, count in body["by_model_version"].items():
        assert count["decisions"] == sum(item["model_version"] == version for item in listed)
    assert body["by_reason"]["burst_of_activity"] == body["total"]["flagged"]


# ---- payments to be decided -------------------------------------------------------------------------


def new_payment(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": name, "user_id": f"{USER}-new", "amount": 12.5, "timestamp": rfc3339(datetime.now(UTC)),
        "merchant": "Café", "location": "Boston", "payment_method": "card", **changes,
    }  # fmt: skip


def on_topic(stack: Settings, topic: str) -> list[tuple[str, int, bytes]]:
    """Key, partition and value of everything there."""
    consumer = Consumer({"bootstrap.servers": stack.kafka_bootstrap, "group.id": "test"})
    places = [TopicPartition(topic, p, 0) for p in consumer.list_topics(topic).topics[topic].partitions]
    ends = {place.partition: consumer.get_watermark_offsets(place)[1] for place in places}
    consumer.assign(places)
    found: list[tuple[str, int, bytes]] = []
    while len(found) < sum(ends.values()):
        found += [(m.key().decode(), m.partition(), m.value()) for m in consumer.consume(1_000, 1.0)]
    consumer.close()
    return found


def test_payments_go_to_their_users_partition_as_they_came(api: httpx.Client, stack: Settings, topic: str) -> None:
    one = json.dumps(new_payment(f"{TOPIC}-one"), ensure_ascii=False).encode()
    lines = [json.dumps(new_payment(f"{TOPIC}-b{i}", user_id=f"b{i}")).encode() for i in range(50)]
    response = api.post("/transactions", content=one, headers={"Content-Type": "application/json"})
    assert response.status_code == 202, response.text
    batch = api.post("/transactions", content=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    assert batch.json()["accepted"] == 50
    items = {item["transaction_id"]: item["decision_id"] for item in response.json()["items"] + batch.json()["items"]}
    sent = on_topic(stack, topic)
    assert sorted(value for _, _, value in sent) == sorted([one, *lines])
    belongs = partitions_of(pa.array([key for key, _, _ in sent]), 2)
    assert [partition for _, partition, _ in sent] == belongs.tolist()
    assert {name: place.rsplit("-", 1)[0] for name, place in items.items()} == {
        json.loads(value)["transaction_id"]: f"{topic}-{partition}" for _, partition, value in sent
    }


def test_a_request_sent_again_with_its_key_produces_nothing_and_hears_the_same(
    api: httpx.Client, stack: Settings, topic: str
) -> None:
    body = json.dumps(new_payment(f"{TOPIC}-again")).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{TOPIC}-key"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.post("/transactions", content=body, headers=headers), range(4)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert {answer.json().get("code", "") for answer in answers} <= {"", "IDEMPOTENCY_IN_PROGRESS"}
    (first, *_) = {answer.text for answer in answers if answer.status_code == 202}
    again = api.post("/transactions", content=body, headers=headers)
    assert (again.status_code, again.text) == (202, first)
    assert sum(value == body for _, _, value in on_topic(stack, topic)) == 1
    other = api.post("/transactions", json=new_payment(f"{TOPIC}-other"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_an_id_of_another_payment_is_a_conflict(api: httpx.Client) -> None:
    row = ROWS[-1]
    known = new_payment(
        row["transaction_id"], user_id=USER, amount=row["amount"], timestamp=rfc3339(row["event_time"]),
        merchant=row["merchant"], location=row["location"], payment_method=row["payment_method"],
    )  # fmt: skip
    assert api.post("/transactions", json=known).status_code == 202
    other = api.post("/transactions", json={**known, "amount": 1})
    assert (other.status_code, other.json()["code"]) == (409, "ID_CONFLICT")
    twice = "\n".join(json.dumps(new_payment(f"{TOPIC}-twice-sent", amount=amount)) for amount in (1, 2))
    batch = api.post("/transactions", content=twice, headers={"Content-Type": "application/x-ndjson"})
    assert (batch.status_code, batch.json()["errors"]) == (
        409, [{"loc": ["body", 1, "transaction_id"], "code": "ID_CONFLICT"}],
    )  # fmt: skip


def test_a_label_is_stored_once_and_told_on_the_topic(api: httpx.Client, stack: Settings) -> None:
    label = {"transaction_id": f"{TOPIC}-1", "is_fraud": True, "label_time": "2001-04-01T00:00:00Z", "source": "ann"}
    answers = [api.post("/labels", json=label).json()["new"] for _ in range(2)]
    assert answers == [True, False]
    told = [json.loads(value) for key, _, value in on_topic(stack, "labels") if key == f"{TOPIC}-1"]
    assert told == [{**label, "label_time": "2001-04-01T00:00:00.000000Z"}] * 2


# ---- explained --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explaining(
    stack: Settings, topic: str, tmp_path_factory: pytest.TempPathFactory, insert: Callable[[list[Row]], None]
) -> Iterator[httpx.Client]:
    """The service beside a model service of a tiny model."""
    source = FolderSource(tmp_path_factory.mktemp("published"))
    source.publish("1")
    states = MemoryStates()
    user = hash_texts(pa.array([f"{USER}-known"]), "user_id")
    record = state.empty(user)
    payment = parse_one(json.dumps(new_payment("k", user_id=f"{USER}-known")).encode(), 2**60)
    kernel.fold(record, np.zeros(1, np.int64), events_of(payment, no_snapshot), -1, np.full(1, -1))
    states.records[int(user[0])] = record
    home = tmp_path_factory.mktemp("serving")
    with listening(worker_for(settings_for(home), source, states)) as serving:
        settings = stack.model_copy(update={"serving_url": serving, "model_timeout_s": 60})
        with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=90) as client:
            deadline = time.monotonic() + 60
            while client.get(f"{serving}/models").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield client


def test_a_decision_is_explained_by_the_model_that_made_it(
    explaining: httpx.Client, insert: Callable[[list[Row]], None]
) -> None:
    name = f"{TOPIC}/why"
    vector = dict.fromkeys(NAMES, 0.25)
    vector |= {"new_merchant": 1.0, "history": 3.0}
    row = decision(
        30_000, transaction_id=name, user_id="why", feature_set_id=feature_set_id(COLUMNS), model_version="1",
        features=np.array(list(vector.values()), "<f4").tobytes(),
        anomaly_reasons=["new_merchant_for_user"], is_anomaly=True, decision="review",
    )  # fmt: skip
    insert([row])
    body = got(explaining.get(f"/transactions/{name}/explain"))
    Explanation.model_validate(body)
    assert [part["name"] for part in body["features"]][:1] == ["history"]
    assert sum(part["contribution"] for part in body["features"]) == pytest.approx(1, abs=1e-5)
    (what,) = body["what_if"]
    new = next(part for part in body["features"] if part["name"] == "new_merchant")
    assert (new["value"], new["usual"], new["reason"]) == (1.0, 0.0, "new_merchant_for_user")
    size = sum(abs(vector[column]) for column in COLUMNS) - 1  # of the tiny model, without the new merchant
    assert what["anomaly_score"] == pytest.approx(1 - np.exp(-0.1 * size), abs=1e-4)
    insert([decision(30_001, transaction_id=f"{name}-old", user_id="why", model_version="0")])
    old = got(explaining.get(f"/transactions/{name}-old/explain"))
    assert (old["features"], old["what_if"], old["artifact_sha256"]) == (None, None, None)


def test_what_was_not_scored_is_not_explained(explaining: httpx.Client, insert: Callable[[list[Row]], None]) -> None:
    insert([unscored(30_010, transaction_id=f"{TOPIC}-unscored", user_id="why")])
    response = explaining.get(f"/transactions/{TOPIC}-unscored/explain")
    assert (response.status_code, response.json()["code"], response.json()["why"]) == (409, "NOT_SCORED", "MODEL_DOWN")


def test_a_user_has_features_payments_and_tags(explaining: httpx.Client, insert: Callable[[list[Row]], None]) -> None:
    user, now = f"{USER}-known", datetime.now(UTC)
    times = {"event_time": now, "ingested_at": now, "processed_at": now}
    insert([decision(n, user_id=user, **times) for n in range(31_000, 31_025)])
    label = {"transaction_id": f"{TOPIC}-31001", "is_fraud": True, "label_time": rfc3339(now), "source": "ann"}
    assert explaining.post("/labels", json=label).status_code == 202
    body = got(explaining.get(f"/users/{user}"))
    assert body["features"]["payments"] == 1
    assert body["features"]["mean_amount_30d"] == 12.5
    assert len(body["payments"]) == 20
    assert {tag["name"] for tag in body["tags"]} == {"reported_fraud", "flagged", "sparse"}
    assert got(explaining.get(f"/users/{USER}"))["features"] is None
    missing = explaining.get("/users/nobody-was-ever-this")
    assert (missing.status_code, missing.json()["code"]) == (404, "USER_UNKNOWN")


# ---- alerts -----------------------------------------------------------------------------------------


class Events:
    """What a reader of `GET /stream` hears."""

    def __init__(self, api: httpx.Client, last_id: str | None = None) -> None:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._context = api.stream("GET", "/stream", headers=headers)
        self._lines = self._context.__enter__().iter_lines()
        self.id = self.next()[1]

    def next(self) -> tuple[str, str, Any]:
        """Event, id and data of the next one."""
        found = {"event": "", "id": "", "data": "null"}
        for line in self._lines:
            if not line and (found["id"] or found["event"]):
                return found["event"], found["id"], json.loads(found["data"])
            name, _, value = line.partition(": ")
            found[name] = value
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self._context.__exit__(None, None, None)


def test_alerts_come_as_they_are_published_and_a_reader_goes_on_where_it_was(
    api: httpx.Client, stack: Settings
) -> None:
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})

    def alert(*numbers: int) -> None:
        for number in numbers:
            producer.produce("alerts", json.dumps({"decision_id": f"{TOPIC}-{number}"}), f"{TOPIC}-{number}")
        assert producer.flush(30) == 0

    def numbers(events: Events, count: int) -> tuple[list[int], str]:
        heard = [events.next() for _ in range(count)]
        assert {kind for kind, _, _ in heard} == {"alert"}
        return sorted(int(data["decision_id"].rsplit("-", 1)[1]) for _, _, data in heard), heard[-1][1]

    reader = Events(api)
    alert(1, 2, 3)
    heard, last = numbers(reader, 3)
    assert heard == [1, 2, 3]
    reader.close()
    alert(*range(4, 30))
    back = Events(api, last)
    assert numbers(back, 26)[0] == list(range(4, 30))
    alert(30)
    assert numbers(back, 1)[0] == [30]
    back.close()
    beyond = api.get("/stream", headers={"Last-Event-ID": "0-99999999"})
    assert (beyond.status_code, beyond.json()["code"]) == (400, "CURSOR_INVALID")


def test_another_user_has_nothing(api: httpx.Client) -> None:
    assert got(api.get("/transactions", params={"user_id": "' OR '1'='1"})) == {"items": [], "next_cursor": None}


def test_a_cursor_is_good_for_its_own_question_only(api: httpx.Client) -> None:
    cursor = got(api.get("/transactions", params={"user_id": USER, "limit": 5}))["next_cursor"]
    other = api.get("/transactions", params={"user_id": USER, "limit": 5, "decision": "review", "cursor": cursor})
    assert (other.status_code, other.json()["code"]) == (400, "CURSOR_INVALID")
    search = api.get("/search", params={"q": "new", "user_id": USER, "limit": 5, "cursor": cursor})
    assert (search.status_code, search.json()["code"]) == (400, "CURSOR_INVALID")


def test_one_decision_shows_its_evidence(api: httpx.Client) -> None:
    row = ROWS[35]
    body = got(api.get(f"/transactions/{row['transaction_id']}"))
    DecisionDetail.model_validate(body)
    assert body["decision_id"] == f"{TOPIC}-{row['kafka_partition']}-{row['kafka_offset']}"
    assert (body["amount"], body["event_time"]) == (45.0, "2001-03-04T12:08:00.000000Z")
    assert body["anomaly_score"] == 0.9
    assert body["anomaly_reason"] == "unusual_amount_for_user"
    assert body["anomaly_reasons"] == ["unusual_amount_for_user", "burst_of_activity"]
    assert body["reason_shares"] == [0.5, 0.25]
    assert list(body["features"]) == list(NAMES)
    stored = np.array(list(body["features"].values()), np.float32)
    assert stored.tobytes() == row["features"]
    assert body["seen_before"] is False


def test_an_id_may_hold_a_slash(api: httpx.Client, insert: Callable[[list[Row]], None]) -> None:
    name = f"{TOPIC}/a/b?c"
    insert([decision(3000, transaction_id=name, user_id="slash")])
    assert got(api.get(f"/transactions/{TOPIC}%2Fa%2Fb%3Fc"))["transaction_id"] == name


def test_an_unknown_id_is_not_found(api: httpx.Client) -> None:
    response = api.get("/transactions/nobody-made-this")
    assert (response.status_code, response.json()["code"]) == (404, "TRANSACTION_UNKNOWN")


def test_a_payment_scored_later_replaces_its_unscored_decision(
    api: httpx.Client, insert: Callable[[list[Row]], None]
) -> None:
    user = f"{USER}-later"
    insert([unscored(4000, user_id=user), decision(4000, user_id=user, revision=2), unscored(4001, user_id=user)])
    listed = [(item["transaction_id"], item["revision"], item["outcome"]) for item in
              got(api.get("/transactions", params={"user_id": user}))["items"]]  # fmt: skip
    assert listed == [(f"{TOPIC}-4001", 1, "unscored"), (f"{TOPIC}-4000", 2, "scored")]
    body = got(api.get(f"/transactions/{TOPIC}-4000"))
    assert (body["revision"], body["outcome"], body["is_anomaly"]) == (2, "scored", True)
    waiting = got(api.get(f"/transactions/{TOPIC}-4001"))
    assert (waiting["outcome"], waiting["unscored_reason"], waiting["decision"]) == ("unscored", "MODEL_DOWN", "review")


def test_repeated_payments_are_shown_when_asked_for(api: httpx.Client, insert: Callable[[list[Row]], None]) -> None:
    user, name = f"{USER}-twice", f"{TOPIC}-twice"
    insert([decision(5000, user_id=user, transaction_id=name), repeated(5001, user_id=user, transaction_id=name)])
    assert [item["outcome"] for item in got(api.get("/transactions", params={"user_id": user}))["items"]] == ["scored"]
    again = got(api.get("/transactions", params={"user_id": user, "outcome": "duplicate"}))["items"]
    assert [(item["outcome"], item["decision"]) for item in again] == [("duplicate", None)]
    body = got(api.get(f"/transactions/{name}"))
    assert (body["outcome"], body["seen_before"]) == ("scored", True)


def test_the_first_scored_decision_of_an_id_counts(api: httpx.Client, insert: Callable[[list[Row]], None]) -> None:
    name = f"{TOPIC}-reused"
    insert(
        [decision(6008, transaction_id=name), unscored(6000, transaction_id=name), decision(6004, transaction_id=name)]
    )
    assert got(api.get(f"/transactions/{name}"))["decision_id"] == f"{TOPIC}-{6004 % 3}-6004"


def test_a_connection_the_server_closed_is_replaced(api: httpx.Client, stack: Settings) -> None:
    got(api.get("/transactions", params={"limit": 1}))
    with closing(psycopg2.connect(stack.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'vigil-api' AND usename = current_user"
        )
        ended = cursor.fetchone()
    assert ended is not None
    assert ended[0] >= 1
    got(api.get("/transactions", params={"limit": 1}))


def test_the_service_cannot_write(stack: Settings) -> None:
    delete = "DELETE FROM decisions WHERE kafka_topic = %s"
    with (
        closing(psycopg2.connect(stack.postgres_reader_dsn)) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute(delete, [TOPIC])


# ---- search -----------------------------------------------------------------------------------------

DOCUMENT_FIELDS = [name for name in Decision.model_fields if name not in ("anomaly_reason", "decision_id")]


def document(row: Row) -> dict[str, Any]:
    """The row as the stream publishes it and the indexer stores it."""
    identity = f"{row['kafka_topic']}-{row['kafka_partition']}-{row['kafka_offset']}"
    names = [*DOCUMENT_FIELDS, "kafka_topic", "kafka_partition", "kafka_offset"]
    values = {name: row[name] for name in names}
    times = {
        name: value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for name, value in values.items() if isinstance(value, datetime)
    }
    return {"decision_id": identity, **values, **times, "anomaly_reasons": row["anomaly_reasons"] or []}


@pytest.fixture(scope="module")
def indexed(stack: Settings, api: httpx.Client) -> list[Row]:
    """The listed rows and one repetition, in an index of this module's own."""
    rows = [*ROWS, repeated(200)]
    lines = []
    for row in rows:
        body = document(row)
        lines += [json.dumps({"index": {"_id": body["decision_id"]}}), json.dumps(body)]
    response = httpx.post(
        f"{stack.elasticsearch_url}/decisions-2001.03.04/_bulk?refresh=true",
        content="\n".join(lines) + "\n",
        headers={"Content-Type": "application/x-ndjson"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    assert response.json()["errors"] is False, response.text
    return ROWS


def searched(rows: list[Row]) -> list[str]:
    """Newest first; within one moment by place in Kafka."""
    place = ("event_time", "kafka_partition", "kafka_offset")
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in place), reverse=True)
    return [row["transaction_id"] for row in ordered]


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ('"New York"', lambda row: row["location"] == "New York"),
        ("new york", lambda row: row["location"] == "New York"),
        ("NEW", lambda row: row["location"] in ("New York", "New Haven")),
        ("york", lambda row: row["location"] in ("New York", "York")),
        ("location:york merchant:café", lambda row: "York" in row["location"] and row["merchant"] == "Corner Café"),
        ("boston OR haven", lambda row: row["location"] in ("Boston", "New Haven")),
        ("stor*", lambda row: row["merchant"] == "Online Store"),
        ('"Toys (R) Us"', lambda row: row["merchant"] == "Toys (R) Us"),
        ('payment_method:"debit_card"', lambda row: row["payment_method"] == "debit_card"),
        ("online boston", lambda row: row["merchant"] == "Online Store" and row["location"] == "Boston"),
        ("nowhere", lambda row: False),
    ],
)
def test_search_finds_by_merchant_location_and_method(
    api: httpx.Client, indexed: list[Row], text: str, keep: Callable[[Row], bool]
) -> None:
    found = pages(api, "/search", q=text, user_id=USER, limit=7)
    assert ids(found) == searched([row for row in indexed if keep(row)])


def test_search_knows_the_lists_filters(api: httpx.Client, indexed: list[Row]) -> None:
    found = pages(
        api, "/search", q="york", user_id=USER, limit=4, is_anomaly="true", min_amount="20",
        to=MIDDLE.isoformat(), decision="review",
    )  # fmt: skip
    expected = [
        row for row in indexed
        if "York" in row["location"] and row["is_anomaly"] and row["amount"] >= 20 and row["event_time"] < MIDDLE
    ]  # fmt: skip
    assert ids(found) == searched(expected)
    assert expected


@pytest.mark.parametrize(
    ("narrowed", "keep"),
    [
        ({"location": "new york"}, lambda row: row["location"] == "New York"),
        ({"location": "York"}, lambda row: True),
        ({"location": "York New"}, lambda row: False),
        ({"merchant": "Corner Café", "payment_method": "debit_card"},
            lambda row: (row["merchant"], row["payment_method"]) == ("Corner Café", "debit_card")),
    ],
)  # fmt: skip
def test_search_narrows_by_what_a_field_holds(
    api: httpx.Client, indexed: list[Row], narrowed: dict[str, str], keep: Callable[[Row], bool]
) -> None:
    found = pages(api, "/search", q="york", user_id=USER, limit=4, **narrowed)
    assert ids(found) == searched([row for row in indexed if "York" in row["location"] and keep(row)])


def test_search_for_a_field_that_holds_no_word_is_refused(api: httpx.Client, indexed: list[Row]) -> None:
    assert api.get("/search", params={"q": "york", "merchant": "***"}).json()["code"] == "QUERY_SYNTAX"


def test_search_answers_the_lists_words(api: httpx.Client, indexed: list[Row]) -> None:
    (found,) = got(api.get("/search", params={"q": "café", "user_id": USER, "limit": 1, "is_anomaly": "true"}))["items"]
    (listed,) = [
        item for page in pages(api, "/transactions", user_id=USER, limit=100) for item in page
        if item["decision_id"] == found["decision_id"]
    ]  # fmt: skip
    assert found == listed


def test_search_shows_repetitions_when_asked_for(api: httpx.Client, indexed: list[Row]) -> None:
    found = got(api.get("/search", params={"q": '"Toys (R) Us"', "user_id": USER, "outcome": "duplicate"}))["items"]
    assert [item["transaction_id"] for item in found] == [f"{TOPIC}-200"]


def test_search_shows_what_matched_and_counts_it(api: httpx.Client, indexed: list[Row]) -> None:
    response = api.get("/search", params={"q": "york", "user_id": USER, "facets": "true", "limit": 3})
    body = got(response)
    assert (body["source"], body["matched"], response.headers["X-Vigil-Search"]) == (
        "elasticsearch", "exact", "elasticsearch",
    )  # fmt: skip
    assert all(
        highlight["location"].endswith("<mark>York</mark>") for highlight in body["highlights"]
    ) and len(body["highlights"]) == 3  # fmt: skip
    matching = [row for row in indexed if "York" in row["location"]]
    counts = {facet["value"]: facet["count"] for facet in body["facets"]["decision"]}
    assert counts == Counter(row["decision"] for row in matching)
    versions = {facet["value"]: facet["count"] for facet in body["facets"]["model_version"]}
    assert versions == Counter(row["model_version"] for row in matching)


def test_a_typing_error_is_forgiven_where_nothing_is_spelt_so(api: httpx.Client, indexed: list[Row]) -> None:
    first = got(api.get("/search", params={"q": "bostin", "user_id": USER, "limit": 5}))
    assert (first["matched"], {item["location"] for item in first["items"]}) == ("similar", {"Boston"})
    found = pages(api, "/search", q="bostin", user_id=USER, limit=5)
    assert ids(found) == searched([row for row in indexed if row["location"] == "Boston"])
    assert got(api.get("/search", params={"q": "location:yorkk reason", "user_id": USER}))["items"] == []


def test_search_by_reason(api: httpx.Client, indexed: list[Row]) -> None:
    found = pages(api, "/search", q="york", user_id=USER, reason="burst_of_activity")
    assert ids(found) == searched([row for row in indexed if row["is_anomaly"] and "York" in row["location"]])


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ('"New York"', lambda row: row["location"] == "New York"),
        ("york", lambda row: "York" in row["location"]),
        ("location:york merchant:store", lambda row: "York" in row["location"] and "Store" in row["merchant"]),
        ("boston OR haven", lambda row: row["location"] in ("Boston", "New Haven")),
        ("stor*", lambda row: row["merchant"] == "Online Store"),
        ("tore", lambda row: False),
        ('"Toys (R) Us"', lambda row: row["merchant"] == "Toys (R) Us"),
    ],
)
def test_search_asks_the_table_while_elasticsearch_is_away(
    stack: Settings, indexed: list[Row], text: str, keep: Callable[[Row], bool]
) -> None:
    away = stack.model_copy(update={"elasticsearch_url": "http://127.0.0.1:1"})
    with running(create_app(away)) as url, httpx.Client(base_url=url, timeout=30) as client:
        day = {"from": "2001-03-04", "to": "2001-03-05"}
        page = client.get("/search", params={"q": text, "user_id": USER, **day})
        assert (page.headers["X-Vigil-Search"], page.json()["source"]) == ("postgresql", "postgresql")
        found = pages(client, "/search", q=text, user_id=USER, limit=9, **day)
        assert ids(found) == newest_first([row for row in indexed if keep(row)])
        narrowed = pages(client, "/search", q=text, user_id=USER, limit=9, merchant="Online Store", **day)
        assert ids(narrowed) == newest_first(
            [row for row in indexed if keep(row) and row["merchant"] == "Online Store"]
        )
        recent = got(client.get("/search", params={"q": text, "user_id": USER}))
        assert recent["items"] == []
        assert recent["searched_since"] is not None
        assert (
            got(client.get("/search", params={"q": text, "user_id": USER, "to": "2001-03-05"}))["items"]
            == page.json()["items"]
        )
        file = client.get("/search.ndjson", params={"q": text, "user_id": USER, **day})
        assert (file.headers["X-Vigil-Search"], file.headers["X-Vigil-Searched-Since"][:10]) == (
            "postgresql",
            "2001-03-04",
        )
        assert [json.loads(line)["transaction_id"] for line in file.text.splitlines()] == ids(found)


def test_ready_says_that_only_the_model_service_is_missing(api: httpx.Client) -> None:
    response = api.get("/ready")
    assert response.status_code == 503
    assert response.json()["checks"] == {"postgres": "up", "elasticsearch": "up", "serving": "down"}
