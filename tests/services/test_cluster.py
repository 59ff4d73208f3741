"""The real Spark job: outcomes are the same for any number of partitions, and on a cluster that loses a worker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg2
import pyarrow as pa
import pyspark
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from feature_repo.hashing import partitions_of
from feature_repo.settings import Settings
from infra.local import java
from infra.local.ports import free_port
from tests.cases.model_service import FolderSource, MemoryStates, listening, settings_for, worker_for
from tests.live import environment
from tests.services.test_state import payments

PIECE = 60  # records per batch on the cluster, which so takes several
SPARK = Path(pyspark.__file__).parent
# `vigil stream --until-caught-up` for one topic after the other in one Spark, with empty states each.
LOCAL = """
import sys
import redis
from prometheus_client import CollectorRegistry
from feature_repo import settings as configuration
from infra.local.jars import spark_jars
from streaming.job import Job
from streaming.query import session, start
from streaming.metrics import StreamMetrics

here = configuration.load()
spark = session(here, spark_jars(here), "local[*]")
for argument in sys.argv[1:]:
    topic, partitions = argument.split(":")
    redis.Redis.from_url(here.redis_url).flushdb()
    settings = here.model_copy(update={"topic": topic, "partitions": int(partitions)})
    for _ in range(2):  # the second has nothing to do
        job = Job(settings, StreamMetrics(CollectorRegistry()))
        start(spark, job, settings, until_caught_up=True).awaitTermination()
"""


@pytest.fixture
def shell(stack: Settings, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a stream with a champion, and states of its own."""
    source = FolderSource(tmp_path)
    source.publish("1")
    cache = stack.redis_url.rpartition("/")[0] + "/1"
    with (
        listening(worker_for(settings_for(tmp_path), source, MemoryStates())) as url,
        closing(redis.Redis.from_url(cache)) as client,
    ):
        client.flushdb()
        found = java.find(stack)
        own = {"VIGIL_SERVING_URL": url, "VIGIL_REDIS_URL": cache, "JAVA_HOME": str(found.home)}
        yield environment(stack) | own | {"VIGIL_MODEL_TIMEOUT_S": "30"}
        client.flushdb()


def sent(stack: Settings, partitions: int) -> str:
    """A new topic with the same payments, each in its user's partition."""
    topic = f"outcomes-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    some = payments(0, 300)
    belongs = partitions_of(pa.array([one["user_id"] for one in some]), partitions)
    for one, partition in zip(some, belongs.tolist(), strict=True):
        producer.produce(topic, json.dumps(one), partition=partition)
    assert producer.flush(30) == 0
    return topic


def ask(stack: Settings, statement: str, topic: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(stack.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, (topic,))
        return cursor.fetchall()


def outcomes(stack: Settings, topic: str) -> list[tuple[Any, ...]]:
    """What every record came to, without where it lay."""
    decided = """SELECT transaction_id, amount::text, outcome, decision, anomaly_score::text, late::text,
        features::text, model_version FROM decisions WHERE kafka_topic = %s ORDER BY 1, 2, 3"""
    buried = "SELECT code, payload_sha256::text FROM dead_letters WHERE kafka_topic = %s ORDER BY 1, 2"
    return [*ask(stack, decided, topic), *ask(stack, buried, topic)]


@contextmanager
def cluster(folder: Path, home: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A standalone master and two workers with a core each, which know nothing of this repository."""
    folder.mkdir()
    address = f"spark://127.0.0.1:{free_port()}"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("VIGIL_", "PYTHON"))}
    own = {"SPARK_HOME": str(SPARK), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m", "JAVA_HOME": home}
    env, argv = bare | own, [str(SPARK / "bin" / "spark-class")]
    log = (folder / "log").open("wb")

    def run(*more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*argv, *more], env=env, cwd=folder, stdout=log, stderr=log)
        ends.callback(killed, process)
        return process

    with ExitStack() as ends:
        ends.callback(log.close)
        port = address.rpartition(":")[2]
        run("org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", port, "--webui-port", "0")
        worker = ["org.apache.spark.deploy.worker.Worker", address, "--host", "127.0.0.1", "--webui-port", "0"]
        yield (
            address,
            [run(*worker, "--cores", "1", "--memory", "1g", "--work-dir", str(folder / str(n))) for n in range(2)],
        )


def killed(process: subprocess.Popen[bytes]) -> None:
    """With all it has started, as when a machine goes away."""
    if process.poll() is None:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in tree:
            with suppress(psutil.NoSuchProcess):  # it ended with one before it
                one.send_signal(signal.SIGKILL)
        process.wait()


def test_outcomes_are_the_same_for_any_number_of_partitions_and_on_a_cluster_that_loses_a_worker(
    stack: Settings, shell: dict[str, str], tmp_path: Path
) -> None:
    topics = {count: sent(stack, count) for count in (1, 2, 4)}
    local = subprocess.run(
        [sys.executable, "-c", LOCAL, *(f"{topic}:{count}" for count, topic in topics.items())],
        env=shell,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert local.returncode == 0, local.stderr[-3000:]
    one, two, four = (outcomes(stack, topic) for topic in topics.values())
    assert {row[2] for row in one if len(row) > 2} == {"scored", "unscored", "duplicate"}
    assert one == two == four

    topic = sent(stack, 2)
    with closing(redis.Redis.from_url(shell["VIGIL_REDIS_URL"])) as client:
        client.flushdb()
    own = {"VIGIL_TOPIC": topic, "VIGIL_PARTITIONS": "2", "VIGIL_MAX_OFFSETS_PER_TRIGGER": str(PIECE)}
    with cluster(tmp_path / "cluster", shell["JAVA_HOME"]) as (address, workers), (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "pipelines.cli", "stream", "--until-caught-up", "--master", address]
        stream = subprocess.Popen(command, env=shell | own, cwd=tmp_path, stdout=log, stderr=log)
        try:
            done = "SELECT count(DISTINCT kafka_partition) FROM ledger_ranges WHERE kafka_topic = %s"
            while stream.poll() is None and ask(stack, done, topic) != [(2,)]:
                time.sleep(0.1)
            killed(workers[0])
            assert stream.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            stream.kill()
        imported = {
            path.parts[-6] for path in (tmp_path / "cluster").glob("*/*/*/vigil/streaming/__pycache__/task.*.pyc")
        }
    assert len(ask(stack, "SELECT 1 FROM ledger_ranges WHERE kafka_topic = %s", topic)) > 4
    assert outcomes(stack, topic) == one
    assert imported, "executors run the archive's code"
    shown = (tmp_path / "cluster" / "log").read_text()
    assert "Launching executor" in shown and not re.search("VIGIL_|postgresql://", shown)
