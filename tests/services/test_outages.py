"""The real Spark job through outages: what it holds for, what it goes on without, and how it comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg2
import psycopg2.extensions
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from api.app import create_app
from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from feature_repo.switches import INTAKE, PAUSED, RULES_ONLY, RUNNING, SCORED, SCORING
from pipelines import backfill, degraded, switches
from streaming import pace
from streaming.publish import ALERTS, DECISIONS, Publisher
from tests.cases.model_service import FolderSource, MemoryStates, listening, running, settings_for, worker_for
from tests.cases.proxy import Proxy, proxied
from tests.live import environment
from tests.services.test_lifecycle import eventually, rows

STARTED_S = 180.0
REDIS_DATABASE = 1  # the stack's own is 0
FULL = 2 * pace.LEAST  # records: a batch of so many takes longer than it should here
TOO_SMALL = "100"  # bytes: no message fits


@dataclass
class Site:
    """A running `vigil stream` on a topic of its own, with PostgreSQL and the model service behind proxies."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path
    postgres: Proxy
    models: Proxy
    sent: int = 0

    def send(self, count: int = 3) -> list[int]:
        """Payments; answers their offsets."""
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
        first = self.sent
        for number in range(first, first + count):
            payment = {
                "transaction_id": f"{self.settings.topic}-{number}",
                "user_id": f"outage {number % 5}",
                "amount": 10.0 + number,
                "timestamp": datetime.now(UTC).isoformat(),
                "merchant": "Bakery",
                "location": "Zürich",
                "payment_method": "card",
            }
            producer.produce(self.settings.topic, json.dumps(payment), partition=0)
        assert producer.flush(30) == 0
        self.sent += count
        return list(range(first, self.sent))

    def decided(self, offsets: list[int]) -> set[str]:
        """How these were decided, once all of them are: outcome, or why there is no score."""
        found = eventually(lambda: len(some := self.outcomes(offsets)) >= len(offsets) and some)
        assert sorted(offset for offset, _ in found) == offsets
        return {outcome for _, outcome in found}

    def outcomes(self, offsets: list[int]) -> list[tuple[int, str]]:
        return rows(
            self.settings,
            "SELECT kafka_offset, coalesce(unscored_reason, outcome) FROM decisions"
            " WHERE kafka_topic = %s AND revision = 1 AND kafka_offset = ANY(%s)",
            *(self.settings.topic, offsets),
        )  # fmt: skip

    def amiss(self) -> dict[str, Any]:
        """What is degraded, by code."""
        return {one["code"]: one for one in degraded.of_jobs(self.settings)}

    def shows(self, sample: str) -> bool:
        """Whether the job's metrics hold this line."""
        port = self.settings.stream_metrics_port
        return sample in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text.splitlines()

    def logged(self, words: str) -> int:
        return self.log.read_text().count(words)


def config(settings: Settings, name: str, value: str | None) -> None:
    """Set a property of topic decisions, or take it back."""
    how = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
    entry = ConfigEntry(name, value or "", incremental_operation=how)
    change = ConfigResource(ResourceType.TOPIC, DECISIONS, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    for done in admin.incremental_alter_configs([change]).values():
        done.result(30)


@contextmanager
def job(settings: Settings, log: Path, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "stream"],
            env=environment(settings) | changes,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def site(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    source = FolderSource(tmp_path_factory.mktemp("published"))
    source.publish("1")
    dsn = psycopg2.extensions.parse_dsn(stack.postgres_dsn)
    topic = f"outages-{uuid4().hex[:8]}"
    cache = f"{stack.redis_url.rpartition('/')[0]}/{REDIS_DATABASE}"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    log = tmp_path_factory.mktemp("log") / "stream.log"
    with ExitStack() as everything:
        service = urlsplit(everything.enter_context(
            listening(worker_for(settings_for(source.folder), source, MemoryStates()))
        ))  # fmt: skip
        models = everything.enter_context(proxied(service.hostname or "", service.port or 0))
        postgres = everything.enter_context(proxied(dsn["host"], int(dsn["port"])))
        client = everything.enter_context(redis.Redis.from_url(cache))
        client.flushdb()
        through = {"host": postgres.address[0], "port": postgres.address[1], "sslmode": "disable"}
        process = everything.enter_context(job(
            stack, log, VIGIL_TOPIC=topic, VIGIL_PARTITIONS="1", VIGIL_REDIS_URL=cache,
            VIGIL_POSTGRES_DSN=psycopg2.extensions.make_dsn(**{**dsn, **through}),
            VIGIL_SERVING_URL=f"http://127.0.0.1:{models.address[1]}", VIGIL_PUBLISH_TIMEOUT_S="2",
            VIGIL_MODEL_TIMEOUT_S="6",
            VIGIL_MAX_OFFSETS_PER_TRIGGER=str(FULL), VIGIL_BATCH_TARGET_S="0.01",
        ))  # fmt: skip
        settings = stack.model_copy(update={
            "topic": topic, "partitions": 1, "redis_url": cache, "serving_url": service.geturl()
        })  # fmt: skip
        site = Site(settings, process, log, postgres, models)
        offsets, deadline = site.send(), time.monotonic() + STARTED_S
        while len(site.outcomes(offsets)) < len(offsets):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        assert site.decided(offsets) == {"scored"}
        try:
            yield site
        finally:
            client.flushdb()


def test_payments_go_unscored_while_the_model_service_hangs_and_are_scored_once_it_answers(site: Site) -> None:
    site.models.swallow = True
    assert site.decided(site.send()) == {"MODEL_DOWN"}
    assert site.decided(site.send()) == {"MODEL_DOWN"}
    said = eventually(lambda: site.amiss().get("MODEL_DOWN"))
    assert said["component"] == "serving" and "vigil restart serving" in said["remedy"]
    assert site.shows('vigil_stream_breaker_open{dependency="model service"} 1.0')
    site.models.refuse(True)
    site.models.swallow = False
    assert site.decided(site.send()) == {"MODEL_DOWN"}
    site.models.refuse(False)
    eventually(lambda: "MODEL_DOWN" not in site.amiss())
    assert site.decided(site.send()) == {"scored"}
    assert site.logged("model service is left alone") == 1, "further batches did not even ask"


def test_a_paused_stream_decides_nothing_and_loses_nothing(site: Site) -> None:
    assert switches.throw(site.settings, INTAKE, PAUSED, "ada", "looking into it")
    try:
        assert "ada paused the stream (looking into it)" in site.amiss()["PAUSED"]["cause"]
        before = site.logged("paused: batch")
        offsets = site.send()
        eventually(lambda: site.logged("paused: batch") > before)
        eventually(lambda: site.shows("vigil_stream_paused 1.0"))
        assert site.outcomes(offsets) == []
    finally:
        assert switches.throw(site.settings, INTAKE, RUNNING, "ada", "seen")
    assert site.decided(offsets) == {"scored"}
    assert "PAUSED" not in site.amiss()


def test_rules_only_is_decided_without_a_model_and_scored_by_a_backfill(site: Site) -> None:
    assert switches.throw(site.settings, SCORING, RULES_ONLY, "ada", "suspicious")
    try:
        assert site.decided(offsets := site.send()) == {"RULES_ONLY"}
        assert "RULES_ONLY" in site.amiss()
        eventually(lambda: site.shows("vigil_stream_rules_only 1.0"))
    finally:
        assert switches.throw(site.settings, SCORING, SCORED, "ada", "cleared")
    assert site.decided(site.send()) == {"scored"}
    backfill.run(site.settings, "ada")
    assert rows(
        site.settings,
        "SELECT count(*) FROM decisions WHERE kafka_topic = %s AND revision = 2 AND outcome = 'scored'"
        " AND kafka_offset = ANY(%s)",
        *(site.settings.topic, offsets),
    ) == [(len(offsets),)]  # fmt: skip


def test_payments_wait_for_postgresql_and_none_is_skipped(site: Site) -> None:
    before = site.logged(" holds for ")
    site.postgres.refuse(True)
    offsets = site.send()
    eventually(lambda: site.logged(" holds for ") >= before + 3)
    offsets += site.send()
    site.postgres.refuse(False)
    assert site.decided(offsets) == {"scored"}
    assert site.process.poll() is None


def test_decisions_go_on_while_kafka_refuses_them_and_are_published_without_another_payment(site: Site) -> None:
    config(site.settings, "max.message.bytes", TOO_SMALL)
    try:
        offsets = site.send()
        assert site.decided(offsets) == {"scored"}
        offsets += site.send()
        assert site.decided(offsets) == {"scored"}
        assert eventually(lambda: site.amiss().get("PUBLISH_BEHIND"))["component"] == "kafka"
        assert unpublished(site)
    finally:
        config(site.settings, "max.message.bytes", None)
    eventually(lambda: not unpublished(site))
    eventually(lambda: "PUBLISH_BEHIND" not in site.amiss())


def test_a_query_whose_full_batches_take_too_long_goes_on_with_smaller_ones_and_loses_nothing(site: Site) -> None:
    offsets = site.send((pace.WARMING + pace.ENOUGH + 1) * FULL)
    assert site.decided(offsets) == {"scored"}
    assert site.logged("batches of at most ") >= 1
    assert site.decided(site.send()) == {"scored"}
    assert site.process.poll() is None


def test_a_partition_that_is_gone_is_an_error_and_no_wait_without_end(stack: Settings) -> None:
    publisher = Publisher(stack.kafka_bootstrap, 2.0)
    publisher.send(ALERTS, 0, [{"key": b"k", "value": b"not a decision"}])  # from here on it knows the topic
    publisher.flush()
    with pytest.raises(DependencyDown, match=r"(?i)unknown partition"):
        publisher.send(ALERTS, 99, [{"key": b"k", "value": b"{}"}])


def unpublished(site: Site) -> list[Any]:
    statement = "SELECT first_offset FROM ledger_ranges WHERE kafka_topic = %s AND published_at IS NULL"
    return rows(site.settings, statement, site.settings.topic)


def test_at_the_end_every_offset_has_one_outcome_and_lost_states_are_said_with_their_remedy(site: Site) -> None:
    """Asked to end while it holds a batch, the job ends at once; started without its states it refuses."""
    switches.throw(site.settings, INTAKE, PAUSED, "ada", "the end")
    try:
        before = site.logged("paused: batch")
        site.send()
        eventually(lambda: site.logged("paused: batch") > before)
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(60) == 128 + signal.SIGTERM
    finally:
        switches.throw(site.settings, INTAKE, RUNNING, "ada", "the end")
    found = rows(
        site.settings, "SELECT kafka_offset FROM decisions WHERE kafka_topic = %s AND revision = 1 ORDER BY 1",
        site.settings.topic,
    )  # fmt: skip
    assert [offset for (offset,) in found] == list(range(site.sent - 3))
    ranges = rows(
        site.settings,
        "SELECT first_offset, until_offset FROM ledger_ranges WHERE kafka_topic = %s ORDER BY 1",
        site.settings.topic,
    )
    assert [until for _, until in ranges[:-1]] == [first for first, _ in ranges[1:]]

    with redis.Redis.from_url(site.settings.redis_url) as client:
        client.flushdb()
    env = {"VIGIL_TOPIC": site.settings.topic, "VIGIL_PARTITIONS": "1", "VIGIL_REDIS_URL": site.settings.redis_url}
    with job(site.settings, site.log, **env) as process:
        assert process.wait(120) == 8
    said = site.amiss()["STATE_LOST"]
    assert said["component"] == "stream" and said["remedy"] == "vigil state rebuild"
    with running(create_app(site.settings)) as url:
        shown = httpx.get(f"{url}/ready", timeout=30).json()["degraded"]
    assert ("STATE_LOST", "vigil state rebuild") in {(one["code"], one["remedy"]) for one in shown}
    with psycopg2.connect(site.settings.postgres_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM conditions WHERE job = %s", (f"stream {site.settings.topic}",))
