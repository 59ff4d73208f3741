"""A record that kills whatever process folds it, against the real Spark job: given up, its neighbours decided."""

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg2
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from feature_repo.settings import Settings
from tests.live import environment
from tests.unit.test_road import payment

RECORDS, POISONED, DEADLY = 40, 17, 666.66
# Loaded by every interpreter with this folder on its path, Spark's workers among them.
SITE = f"""
import os, signal
from feature_repo import kernel

fold = kernel.fold

def deadly(states, slots, events, *rest):
    if (abs(events.amount - {DEADLY}) < 1e-6).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return fold(states, slots, events, *rest)

kernel.fold = deadly
"""


def test_a_record_that_kills_its_worker_is_given_up_and_its_neighbours_are_decided(
    stack: Settings, tmp_path: Path
) -> None:
    topic, cache = f"poison-{uuid4().hex[:8]}", stack.redis_url.rpartition("/")[0] + "/1"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    for number in range(RECORDS):
        amount = DEADLY if number == POISONED else 20.0
        message = json.loads(payment(number, amount=amount)) | {"timestamp": f"2026-01-15T07:{number:02d}:00Z"}
        producer.produce(topic, json.dumps(message).encode(), b"u1", 0)
    assert producer.flush(30) == 0
    (tmp_path / "sitecustomize.py").write_text(SITE)
    with redis.Redis.from_url(cache) as client:
        client.flushdb()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "stream", "--until-caught-up"],
            env=environment(stack)
            | {"VIGIL_TOPIC": topic, "VIGIL_PARTITIONS": "1", "VIGIL_REDIS_URL": cache, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        client.flushdb()
    assert done.returncode == 0, done.stderr[-3000:]
    with psycopg2.connect(stack.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT kafka_offset, code FROM dead_letters WHERE kafka_topic = %s", (topic,))
        assert cursor.fetchall() == [(POISONED, "PROCESSING_FAILED")]
        cursor.execute("SELECT kafka_offset FROM decisions WHERE kafka_topic = %s ORDER BY 1", (topic,))
        assert [offset for (offset,) in cursor] == [n for n in range(RECORDS) if n != POISONED]
        cursor.execute("SELECT committed_until FROM ledger WHERE kafka_topic = %s", (topic,))
        assert cursor.fetchone() == (RECORDS,)
