"""What a new user is promised, on the real servers with every process running."""

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from feature_repo import kernel, state
from feature_repo.hashing import events_of
from feature_repo.parser import parse_one
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from pipelines import road as look
from pipelines.clock import SystemClock
from pipelines.defects import Defects
from pipelines.demo import await_served
from pipelines.produce import produce
from pipelines.sources import from_people
from tests.cases import promql
from tests.e2e import checker
from tests.e2e.conftest import Road

DECIDED_S = 90.0  # generous: this is a test of what happens, `vigil bench` says how fast


def api(settings: Settings, path: str, **query: Any) -> dict[str, Any]:
    answer = httpx.get(settings.api_url + path, params=query, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def eventually(what: Any, timeout_s: float = DECIDED_S) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = what()
        if answer or time.monotonic() > deadline:
            assert answer, "it did not happen in time"
            return answer
        time.sleep(0.2)


def message(number: int, user: str, at: datetime, amount: float = 25.0) -> dict[str, Any]:
    return {
        "transaction_id": f"stranger_{user}_{number}",
        "user_id": user,
        "amount": amount,
        "timestamp": at.isoformat(),
        "merchant": "Online Store",
        "location": "New York",
        "payment_method": "credit_card",
    }


def send(settings: Settings, messages: list[dict[str, Any]], *, keyed: bool) -> None:
    """A stranger's client: librdkafka as it comes, with its own partitioner."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
    for one in messages:
        producer.produce(settings.topic, json.dumps(one), key=one["user_id"] if keyed else None)
    assert producer.flush(30) == 0


@pytest.mark.parametrize("keyed", [True, False])
def test_a_strangers_message_is_decided_and_found(road: Road, keyed: bool) -> None:
    settings = road.settings
    user = f"stranger_{'keyed' if keyed else 'unkeyed'}"
    send(settings, [message(n, user, datetime.now(UTC)) for n in range(5)], keyed=keyed)
    found = eventually(lambda: len(api(settings, "/transactions", user_id=user)["items"]) == 5)
    assert found
    by_version = api(settings, "/transactions", user_id=user, model_version=road.version)["items"]
    assert {item["transaction_id"] for item in by_version} == {f"stranger_{user}_{n}" for n in range(5)}
    hits = eventually(lambda: api(settings, "/search", q="New York", user_id=user)["items"])
    assert {hit["location"] for hit in hits} == {"New York"}
    one = api(settings, f"/transactions/stranger_{user}_0")
    assert one["model_version"] == road.version
    assert one["decision"] in ("approve", "review") and 0 <= one["anomaly_score"] <= 1


def usual_payment(settings: Settings) -> dict[str, Any]:
    """A payment like most of one well-known user's, at that user's usual hour."""
    history = pq.read_table(settings.home / "data" / settings.data / "history.parquet")
    counts = Counter(history["user_id"].to_pylist()).most_common(40)
    user = counts[-1][0]
    own = history.filter(pc.equal(history["user_id"], user))
    common = {
        name: Counter(own[name].to_pylist()).most_common(1)[0][0]
        for name in ("merchant", "location", "payment_method", "device_id")
    }
    hours = Counter(moment.hour for moment in own["event_time"].to_pylist())
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight - timedelta(days=1) + timedelta(hours=hours.most_common(1)[0][0], minutes=30)
    payment = {
        "transaction_id": "usual",
        "user_id": user,
        "amount": round(float(np.median(own["amount"].to_numpy())), 2),
        "timestamp": at.isoformat(),
        **{name: value for name, value in common.items() if value is not None},
    }
    place = own.filter(pc.equal(own["location"], common["location"]))
    for name in ("latitude", "longitude"):
        value = place[name].drop_null()
        if len(value):
            payment[name] = value[0].as_py()
    return payment


def test_detect_tells_an_ordinary_payment_from_forty_times_the_usual(road: Road) -> None:
    ordinary = usual_payment(road.settings)
    calm = httpx.post(road.settings.api_url + "/detect", json=ordinary, timeout=30).json()
    assert calm["is_anomaly"] is False, calm
    assert calm["anomaly_score"] < 0.5
    assert calm["model_version"] == road.version
    high = {**ordinary, "transaction_id": "forty", "amount": round(40 * ordinary["amount"], 2)}
    loud = httpx.post(road.settings.api_url + "/detect", json=high, timeout=30).json()
    assert loud["is_anomaly"] is True, loud
    assert loud["anomaly_reason"] == "unusual_amount_for_user"
    assert loud["anomaly_reasons"][0] == "unusual_amount_for_user"
    assert loud["decision"] == "review"


def test_stream_features_equal_the_kernel_on_the_raw_messages(road: Road) -> None:
    settings = road.settings
    snapshots = SnapshotStore(settings.redis_url)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    effective = int(today.timestamp() * 1e6)
    eventually(lambda: (newest := snapshots.newest()) and newest.effective_at >= effective)  # made by the worker
    start = datetime.now(UTC) - timedelta(minutes=5)
    messages = [message(n, "bit_for_bit", start + timedelta(seconds=n), 10.0 + n) for n in range(40)]
    send(settings, messages, keyed=True)
    eventually(lambda: len(api(settings, "/transactions", user_id="bit_for_bit", limit=100)["items"]) == 40)
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT transaction_id, features, side_inputs FROM decisions WHERE user_id = 'bit_for_bit'"
            " ORDER BY kafka_offset"
        )
        rows = cursor.fetchall()
    stored = [(name, bytes(features)) for name, features, _ in rows]
    (named,) = {side_inputs for _, _, side_inputs in rows}
    snapshot = snapshots.load(named)
    assert snapshot is not None and snapshot.effective_at >= effective
    assert len(snapshot.merchants), "those of the history at least"
    by_id = {one["transaction_id"]: one for one in messages}
    now = int(time.time() * 1e6)
    batches = [parse_one(json.dumps(by_id[name]).encode(), now) for name, _ in stored]
    events = events_of(pa.Table.from_batches(batches).combine_chunks().to_batches()[0], snapshot.look_up)
    users = np.unique(events.user)
    features, _ = kernel.fold(state.empty(users), np.zeros(40, np.int64), events, -1, np.arange(40))
    assert [row.tobytes() for row in features] == [features for _, features in stored]


def kill_stream(road: Road) -> None:
    """kill -9 of the job's driver; the supervisor starts it again."""
    service = next(s for s in road.stack.status() if s.name == "stream")
    assert service.pid is not None
    psutil.Process(service.pid).kill()


def test_every_record_has_one_outcome_through_defects_and_a_killed_job(road: Road) -> None:
    settings = road.settings
    assert look.settle(settings, DECIDED_S).complete
    payments = list(from_people(settings, settings.data, SystemClock()))
    defects = Defects(malformed=0.02, duplicate=0.02, unkeyed=0.02, late=0.05, seed=3)
    half = sum(batch.num_rows for batch in payments) // 2
    table = pa.Table.from_batches(payments)
    first, second = table.slice(0, half).to_batches(), table.slice(half).to_batches()
    before_log = len(checker.log(settings))
    sent = produce(settings, iter(first), rate=1_000, defects=defects).sent
    eventually(lambda: look.lag(settings) < sent)
    before = dict(checker.rows(settings))
    kill_stream(road)
    sent += produce(settings, iter(second), rate=1_000, defects=defects).sent
    assert look.settle(settings, 2 * DECIDED_S).complete

    records, rows, letters = checker.log(settings), checker.rows(settings), checker.dead_letters(settings)
    rekeyed = sum(1 for _, code in letters if code == "REKEYED")
    outcomes = Counter(place for place, _ in rows) + Counter(place for place, _ in letters)
    assert set(outcomes) == set(records) and set(outcomes.values()) == {1}
    assert len(records) >= before_log + sent
    assert rekeyed > 0
    after = dict(rows)
    assert {place: after[place] for place in before} == before
    assert checker.overlapping_ranges(settings) == 0
    decided = Counter(row.transaction_id for _, row in rows if row.outcome != "duplicate")
    assert set(decided.values()) == {1}
    assert checker.documents(settings) == {f"{settings.topic}-{p}-{o}" for (p, o), _ in rows}


def test_every_process_shows_what_alerts_and_board_ask_for(road: Road) -> None:
    """Names as they are served; their values where this road must have moved them."""
    send(road.settings, [message(n, "seen_by_metrics", datetime.now(UTC)) for n in range(5)], keyed=True)
    assert look.settle(road.settings, DECIDED_S).complete
    addresses = {service.name: service.metrics for service in road.stack.status() if service.metrics}
    assert set(addresses) == {"stream", "indexer", "lifecycle", "serving", "api"}

    def page(name: str) -> str:
        answer = httpx.get(addresses[name], timeout=30)
        assert answer.status_code == 200
        return answer.text

    def total(sample: str, **labels: str) -> float:
        found = [one for text in map(page, addresses) for family in text_string_to_metric_families(text)
                 for one in family.samples if one.name == sample and labels.items() <= one.labels.items()]  # fmt: skip
        return sum(one.value for one in found)

    pages = {name: page(name) for name in addresses}
    families = [family for text in pages.values() for family in text_string_to_metric_families(text)]
    asked = {metric for _, expression in promql.expressions() for metric in promql.check(expression)[0]}
    assert asked <= promql.samples(families) | set(promql.OF_PROMETHEUS)
    assert total("vigil_stream_outcomes_total", outcome="scored") >= 5
    assert total("vigil_stream_model_info", model_version=road.version) == 1
    assert total("vigil_indexer_documents_total") >= 5
    assert total("vigil_lifecycle_jobs_total", task="parity", outcome="done") >= 1  # one more after midnight
    eventually(lambda: total("vigil_stream_looked_timestamp_seconds") > time.time() - 30)
    eventually(lambda: total("vigil_stream_lag_records") + total("vigil_indexer_lag_records") == 0)
    eventually(lambda: total("vigil_stream_unpublished_ranges") == 0)  # the last look may lie before publication
    assert total("vigil_stream_state_keys") > 0
    assert not [name for name, text in pages.items() if "seen_by_metrics" in text or "stranger" in text]


def test_a_promoted_second_model_appears_in_new_rows(road: Road) -> None:
    settings = road.settings
    from pipelines.promote import promote, rollback

    version = road.demo.train(overrides=("seed=99",))
    assert version != road.version
    promote(settings, version, "test", override="the history is trained on to its end")
    await_served(road.settings, version)
    send(settings, [message(0, "after_promotion", datetime.now(UTC))], keyed=True)
    items = eventually(lambda: api(settings, "/transactions", user_id="after_promotion")["items"])
    assert items[0]["model_version"] == version
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM decisions WHERE model_version = %s", (road.version,))
        assert cursor.fetchone() != (0,)
        cursor.execute("SELECT count(*) FROM audit WHERE after ->> 'champion' = %s", (version,))
        assert cursor.fetchone() != (0,)
    rollback(settings, "test")
    await_served(road.settings, road.version)
