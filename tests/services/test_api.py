"""The query service over real stores: every page, every filter, the right revision, and search."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extras import execute_values

from api.app import create_app
from api.transactions.schemas import Decision, DecisionDetail
from feature_repo.features import NAMES, WIDTH
from feature_repo.settings import Settings
from tests.cases.model_service import running

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
def api(stack: Settings, insert: Callable[[list[Row]], None]) -> Iterator[httpx.Client]:
    insert(ROWS)
    with running(create_app(stack)) as url, httpx.Client(base_url=url, timeout=30) as client:
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
    insert([decision(5000, user_id=user, transaction_id=name), repeated(5004, user_id=user, transaction_id=name)])
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


def test_ready_says_that_only_the_model_service_is_missing(api: httpx.Client) -> None:
    response = api.get("/ready")
    assert response.status_code == 503
    assert response.json()["checks"] == {"postgres": "up", "elasticsearch": "up", "serving": "down"}
