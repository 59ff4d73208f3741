"""What an analyst would find: a week of simulated people, decided by the nine steps, indexed, and three versions.

Everything is made of what the road itself uses, but for Spark and the indexer, whose documents are posted here.
"""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import mlflow
import psycopg2
from confluent_kafka import Producer
from psycopg2.extras import Json

from feature_repo.errors import ModelLoading
from feature_repo.features import feature_set_id
from feature_repo.settings import Settings
from feature_repo.transaction import rfc3339
from pipelines.simulator import days as days_of
from pipelines.simulator import world as worlds
from pipelines.simulator.world import Options
from serving.client import ModelClient
from serving.source import CHALLENGER, FILE_NAME
from streaming import scoring
from streaming.bulk import _ENTRY
from tests.cases import tiny_model
from tests.cases.decided import Stream
from tests.cases.model_service import FolderSource, MemoryStates, listening, settings_for, worker_for
from tests.cases.registry import publish

USERS, DAYS, SEED = 200, 7, 3
# What is 0 for a usual payment: the tiny model's score grows with the sum of all.
COLUMNS = (
    "amount_ratio_30d", "amount_z", "rate_24h", "hour_distance", "new_merchant", "new_location", "travel_speed",
    "new_method", "small_run_1h",
)  # fmt: skip
SCALES = {"1": 0.26, "2": 0.3, "3": 0.22}  # of each version; larger flags more
METRICS = {"1": (0.61, 0.94), "2": (0.64, 0.95), "3": (0.58, 0.93)}
TIMEOUT_S = 60


@dataclass
class World:
    """`settings` are those of a query service over all of it."""

    settings: Settings
    stream: Stream
    serving: str
    payments: list[dict[str, Any]]

    def decide(self, payments: list[dict[str, Any]]) -> None:
        """Through Kafka, the nine steps, PostgreSQL and Elasticsearch; alerts to their topic."""
        self.stream.send(payments)
        before = len(self.stream.published.sent)
        with ModelClient(self.serving, TIMEOUT_S) as client:
            self.stream.road._scorer = scoring.Scorer(client, 8192, TIMEOUT_S)
            self.stream.road._challenger = scoring.Challenger(client, 8192, TIMEOUT_S)
            self.stream.decide(pins=scoring.pins(client))
        self._publish(self.stream.published.sent[before:])

    def _publish(self, sent: list[Any]) -> None:
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
        entries = []
        for topic, _, message in sent:
            if topic == "alerts":
                producer.produce(topic, **message)
            elif topic == "decisions":
                document = json.loads(message["value"])
                day = document["event_time"][:10].split("-")
                parts = [part.encode() for part in day]
                version = document["revision"]
                entries.append(_ENTRY % (*parts, document["decision_id"].encode(), b"%d" % version, message["value"]))
        assert producer.flush(30) == 0
        answer = httpx.post(
            f"{self.settings.elasticsearch_url}/_bulk?refresh=true",
            content=b"".join(entries),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=TIMEOUT_S,
        )
        assert answer.status_code == 200 and answer.json()["errors"] is False, answer.text[:500]


@contextmanager
def decided(stack: Settings, folder: Path) -> Iterator[World]:
    """All payments are decided; `World.decide` goes on with others."""
    line = stack.model_copy(update={"model_name": f"console-{uuid.uuid4().hex[:8]}"})
    source = FolderSource(folder / "published")
    source.folder.mkdir()
    for version, scale in SCALES.items():
        _register(line, folder, version, scale)
    source.publish("1", SCALES["1"], columns=COLUMNS)
    source.publish("2", SCALES["2"], alias=CHALLENGER, columns=COLUMNS)
    with mlflow_client(line) as client:
        client.set_registered_model_alias(line.model_name, "champion", "1")
        client.set_registered_model_alias(line.model_name, "challenger", "2")
    _judged(line)
    with listening(worker_for(settings_for(folder / "serving"), source, MemoryStates())) as serving:
        _await(serving)
        stream = Stream(line)
        settings = stream.settings.model_copy(update={"serving_url": serving, "model_timeout_s": float(TIMEOUT_S)})
        world = World(settings, stream, serving, _payments())
        world.decide(world.payments)
        yield world


@contextmanager
def mlflow_client(settings: Settings) -> Iterator[mlflow.MlflowClient]:
    yield mlflow.MlflowClient(settings.mlflow_url)


def outrageous(world: World) -> dict[str, Any]:
    """A payment of a user with a past that any of the models flags."""
    users = [payment["user_id"] for payment in world.payments]
    return {
        "transaction_id": f"outrageous-{uuid.uuid4().hex[:8]}",
        "user_id": max(set(users), key=users.count),
        "amount": 9_876.5,
        "timestamp": rfc3339(datetime.now(UTC)),
        "merchant": f"Midnight <Jewels> & Co {uuid.uuid4().hex[:4]}",
        "location": "Ulaanbaatar",
        "payment_method": "gift_card",
        "currency": "USD",
    }


def _payments() -> list[dict[str, Any]]:
    """Up to now, in the order of their arrival."""
    now = datetime.now(UTC)
    first = now.date() - timedelta(days=DAYS - 1)
    world = worlds.build(Options(users=USERS, seed=SEED, start=first, prevalence=0.04))
    rows = [row for day in days_of.stream(world, 0, DAYS) for row in days_of.history(world, day).to_pylist()]
    names = ("transaction_id", "user_id", "amount", "merchant", "location", "payment_method", "currency")
    return [
        {**{name: row[name] for name in names}, "timestamp": rfc3339(row["event_time"])}
        for row in rows
        if row["arrival_time"] <= now and row["event_time"] <= now
    ]


def _register(settings: Settings, folder: Path, version: str, scale: float) -> None:
    file = folder / FILE_NAME
    sha256 = tiny_model.write(file, COLUMNS, scale)
    tags = {"artifact_sha256": sha256, "recipe": "default", "feature_set_id": feature_set_id(COLUMNS)}
    assert publish(settings, file, tags) == version
    with mlflow_client(settings) as client:
        run = client.get_model_version(settings.model_name, version).run_id
        precision, auc = METRICS[version]
        client.log_metric(run, "held_out_average_precision", precision)
        client.log_metric(run, "held_out_auc", auc)


def _judged(settings: Settings) -> None:
    """What the gate said of version 1, as the lifecycle worker would have written it down."""
    report = {
        "version": "1",
        "checks": [
            {"name": "integrity", "passed": True, "detail": "the file is what its manifest says", "integrity": True},
            {"name": "average_precision", "passed": True, "detail": "0.612 against 0.540", "integrity": False},
            {"name": "slices", "passed": False, "detail": "new users: 0.41 against 0.47", "integrity": False},
            {"name": "latency", "passed": None, "detail": "no champion to compare with", "integrity": False},
        ],
        "window": {"from": "2026-10-01", "to": "2026-10-21", "payments": 182_300, "frauds": 421},
        "candidate": {
            "metrics": {"average_precision": 0.612, "recall_at_budget": 0.58},
            "intervals": {"average_precision": {"low": 0.571, "high": 0.65}},
        },
        "reference": {
            "name": "isolation_forest",
            "metrics": {"average_precision": 0.54, "recall_at_budget": 0.49},
            "intervals": {"average_precision": {"low": 0.5, "high": 0.58}},
        },
    }
    values = (settings.model_name, Json(report), Json({"champion": "1"}))
    with psycopg2.connect(settings.postgres_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO promotion_requests (actor, action, model_name, version, override, started_at, finished_at,"
            " outcome, report, aliases_before, aliases_after) VALUES ('ada', 'promote', %s, '1', 'the first version',"
            " now(), now(), 'moved', %s, '{}', %s)",
            values,
        )


def _await(serving: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    with ModelClient(serving, TIMEOUT_S) as client:
        while time.monotonic() < deadline:
            with suppress(ModelLoading):
                models = client.models()
                if models.champion == "1" and models.challenger == "2":
                    return
            time.sleep(0.05)
    raise AssertionError("the model service does not serve both versions")
