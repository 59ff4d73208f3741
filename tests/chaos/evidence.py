"""Reads the stores into `checker.Evidence`, with clients, queries and JSON of its own.

Of the code under test it takes the kernel alone, by way of the parity check, as it defines what a feature is.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import onnxruntime
import psycopg2
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan

from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot
from infra.local.stack import Stack
from pipelines import log
from pipelines.parity.recompute import Logged, Recomputation
from streaming.ledger import buried
from streaming.placement import placements, stretches
from tests.chaos.checker import Evidence, Letter, Model, Published, Range, Record, Revision, Row
from tests.chaos.load import Load
from tests.chaos.needles import Needles
from training.registration import mlflow_client

CODE = Path(__file__).parents[2]
SILENCE_S, READ_S = 30.0, 0.2
PIECE = 5_000
PARITY_USERS = 150

ROWS = """
    SELECT kafka_partition, kafka_offset, revision, transaction_id, user_id,
        (extract(epoch FROM event_time) * 1000000)::bigint, outcome, unscored_reason, anomaly_score, is_anomaly,
        decision, model_version, ruleset_version, features, late
    FROM decisions WHERE kafka_topic = %s
"""
LETTERS = "SELECT kafka_partition, kafka_offset, code, detail FROM dead_letters WHERE kafka_topic = %s"
RANGES = """
    SELECT kafka_partition, first_offset, until_offset, records, model_version, ruleset_version, feature_names,
        extract(epoch FROM committed_at)::float8, published_at IS NOT NULL
    FROM ledger_ranges WHERE kafka_topic = %s
"""
INPUTS = """SELECT kafka_partition, kafka_offset, side_inputs FROM decisions
    WHERE kafka_topic = %s AND revision = 1 AND side_inputs IS NOT NULL"""
COMMITTED = "SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s"
PARKED = "SELECT decision_id, revision, reason FROM parked_documents "
# Whatever text a row holds, payloads as the text they were.
TEXTS = {
    "decisions": "SELECT (d.*)::text FROM (SELECT transaction_id, user_id, merchant, location, payment_method,"
    " unscored_reason, anomaly_reasons FROM decisions WHERE kafka_topic = %s) d",
    "dead_letters": "SELECT code || ' ' || detail || ' ' || encode(coalesce(payload, ''), 'escape')"
    " FROM dead_letters WHERE kafka_topic = %s",
    "parked_documents": "SELECT reason FROM parked_documents WHERE code <> %s",
    "audit": "SELECT (a.*)::text FROM audit a WHERE action <> %s",
}


def gather(stack: Stack, load: Load, complaints: Sequence[str] = ()) -> Evidence:
    """Everything. The stack runs, nothing is produced any more, and all had time to come to rest."""
    settings = stack.settings
    needles = Needles(stack.files.secrets().values())
    evidence = Evidence(settings.topic, sent=load.sent, loose=load.loose)
    evidence.complaints = [*complaints, *tracebacks(settings.home)]
    _read_log(settings, evidence)
    _read_postgres(settings, evidence, needles)
    for topic, into in (("decisions", evidence.decisions), ("alerts", evidence.alerts)):
        for message in _messages(settings, topic):
            needles.look(topic, _whole(message))
            revision, content = _published(message)
            into.setdefault(revision, set()).add(content)
    for message in _messages(settings, "transactions.dlq"):
        needles.look("transactions.dlq", _whole(message))
        evidence.buried.add(json.loads(message.value() or b"")["dead_letter_id"])
    _read_elasticsearch(settings, evidence, needles)
    _read_logs(settings.home, needles)
    for service in stack.status():
        if service.metrics and service.pid is not None:
            needles.look(service.metrics, httpx.get(service.metrics, timeout=30).content)
    evidence.leaks = needles.leaks
    evidence.models = {version: _model(settings, version) for version in _versions(evidence.rows)}
    evidence.mismatches = list(_mismatches(settings, evidence))
    return evidence


# ---- Kafka


def _messages(settings: Settings, topic: str) -> Iterator[Message]:
    """Every committed message of a topic."""
    options = {"bootstrap.servers": settings.kafka_bootstrap, "group.id": "chaos-checker", "enable.auto.commit": False,
               "isolation.level": "read_committed", "enable.partition.eof": True}  # fmt: skip
    with closing(Consumer(options)) as consumer:
        partitions = set(consumer.list_topics(topic, timeout=SILENCE_S).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        heard = time.monotonic()
        while partitions:
            messages = consumer.consume(PIECE, READ_S)  # so many, or what comes within so long
            heard = time.monotonic() if messages else heard
            assert time.monotonic() - heard < SILENCE_S, f"topic {topic} was silent for {SILENCE_S:.0f} s"
            for message in messages:
                error = message.error()
                if error is None:
                    yield message
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error.str()
                    partitions.discard(message.partition() or 0)


def _read_log(settings: Settings, evidence: Evidence) -> None:
    for message in _messages(settings, settings.topic):
        place = (message.partition() or 0, message.offset() or 0)
        origin = _headers(message).get("vigil-origin")
        evidence.log[place] = Record(_transaction_id(message.value()), origin.decode() if origin else None)


def _transaction_id(value: bytes | None) -> str | None:
    try:
        return str(json.loads(value or b"")["transaction_id"])
    except (ValueError, TypeError, KeyError):
        return None


def _headers(message: Message) -> dict[str, bytes]:
    headers: Any = message.headers() or []  # pairs, whatever its type says
    return {name: value or b"" for name, value in headers}


def _whole(message: Message) -> bytes:
    headers = [name.encode() + b" " + value for name, value in _headers(message).items()]
    return b"\n".join([message.key() or b"", message.value() or b"", *headers])


def _published(message: Message) -> tuple[Revision, Published]:
    said = json.loads(message.value() or b"")
    assert (message.key() or b"").decode() == said["decision_id"]
    content = Published(said["outcome"], said["decision"], said["anomaly_score"], said["model_version"])
    return (said["decision_id"], said["revision"]), content


# ---- PostgreSQL, Elasticsearch


def _query(settings: Settings, sql: str, *values: str) -> Iterator[tuple[Any, ...]]:
    with closing(psycopg2.connect(settings.postgres_migrator_dsn)) as connection, connection.cursor("rows") as cursor:
        cursor.itersize = PIECE
        cursor.execute(sql, values)
        yield from cursor


def _read_postgres(settings: Settings, evidence: Evidence, needles: Needles) -> None:
    topic = settings.topic
    for fields in _query(settings, ROWS, topic):
        row = Row(*fields)
        evidence.rows.append(row if row.features is None else row._replace(features=bytes(row.features)))
    evidence.letters = [Letter(*row) for row in _query(settings, LETTERS, topic)]
    for partition, first, until, records, model, ruleset, names, *rest in _query(settings, RANGES, topic):
        evidence.ranges.append(Range(partition, first, until, records, model, ruleset, tuple(names), *rest))
    evidence.committed = dict(_query(settings, COMMITTED, topic))
    evidence.parked = {(name, revision): reason for name, revision, reason in _query(settings, PARKED)}
    for table, sql in TEXTS.items():
        for (text,) in _query(settings, sql, topic):
            needles.look(table, (text or "").encode())


def _read_elasticsearch(settings: Settings, evidence: Evidence, needles: Needles) -> None:
    client = Elasticsearch(settings.elasticsearch_url, request_timeout=60)
    try:
        client.indices.refresh(index="decisions")
        for hit in scan(client, index="decisions", size=PIECE):
            needles.look("Elasticsearch", json.dumps(hit["_source"]).encode())
            evidence.documents[hit["_id"]] = hit["_source"]["revision"]
    finally:
        client.close()


# ---- logs


def _logs(home: Path) -> list[Path]:
    return sorted(path for folder in (home / "logs", home / "elasticsearch" / "logs") for path in folder.glob("*"))


def _read_logs(home: Path, needles: Needles) -> None:
    for path in _logs(home):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                needles.look(f"{path.name}:{number}", line)


def tracebacks(home: Path) -> list[str]:
    """Where our processes let a person read a stack trace through our code for an error. Spark's forked workers tell
    so of a job that died under them, through its code alone, and nobody can keep them from it."""
    found = []
    for name in ("stream", "indexer", "lifecycle", "api", "serving", "supervisor"):
        for path in (home / "logs").glob(f"{name}.log*"):
            inside = False
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                inside = line.startswith("Traceback (most") or (inside and line.startswith(" "))
                if inside and line.startswith('  File "') and str(CODE) in line and "site-packages" not in line:
                    found.append(f"{path.name}:{number}")
                    inside = False
    return found


# ---- models and features


def _versions(rows: Iterable[Row]) -> set[str]:
    return {row.model_version for row in rows if row.model_version is not None}


def _model(settings: Settings, version: str) -> Model:
    """As the registry holds it, run by ONNX Runtime without a line of ours."""
    with mlflow_client(settings) as mlflow:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{settings.model_name}/{version}"))
    session = onnxruntime.InferenceSession(next(folder.rglob("*.onnx")), providers=["CPUExecutionProvider"])
    manifest = json.loads(session.get_modelmeta().custom_metadata_map["vigil_manifest"])
    return Model(tuple(manifest["columns"]), manifest["threshold"], _scorer(session))


def _scorer(session: onnxruntime.InferenceSession) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    def score(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        pieces = [session.run(["score"], {"features": x[at : at + PIECE]})[0] for at in range(0, len(x), PIECE)]
        return np.concatenate(pieces)

    return score


def _mismatches(settings: Settings, evidence: Evidence) -> Iterator[str]:
    """Decisions of some users whose features are not those that their records give, folded in order from nothing."""
    users = sorted({row.user_id for row in evidence.live if row.user_id.startswith("chaos_")})
    drawn = set(random.Random(0).sample(users, min(PARITY_USERS, len(users))))
    named = {(partition, offset): inputs for partition, offset, inputs in _query(settings, INPUTS, settings.topic)}
    names = evidence.ranges[0].names
    sample = [
        Logged(row.partition, row.offset, row.transaction_id, row.user_id, row.late, names,
               np.frombuffer(row.features, "<f4"), named.get((row.partition, row.offset)))
        for row in evidence.live if row.user_id in drawn and row.features is not None
    ]  # fmt: skip
    kept = _query(settings, "SELECT id, content FROM merchant_snapshots")
    recomputation = Recomputation(settings, sample, {id: Snapshot.from_bytes(bytes(raw), id) for id, raw in kept})
    with closing(psycopg2.connect(settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        for stretch in stretches(placements(cursor, settings), {}, evidence.committed):
            at = (stretch.partition, stretch.first, stretch.until)
            left_out = buried(cursor, settings.topic, *at)
            for offsets, values, ingested in log.records(settings, *at):
                folded = ~np.isin(offsets, left_out)
                recomputation.take(stretch, offsets[folded], values.filter(pa.array(folded)), ingested[folded])
    for mismatch in recomputation.mismatches(sample):
        yield f"{evidence.id(*mismatch.logged.place)} {mismatch.what}"
