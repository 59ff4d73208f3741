"""Labels into PostgreSQL, from topic `labels` as they arrive and from a file; and out of it, beside a data set.

In: at least once: rows are committed before Kafka's offsets, and writing a label again changes nothing.
"""

import getpass
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, Message, TopicPartition
from psycopg2.extras import execute_values

from feature_repo import labels, verdicts
from feature_repo.errors import BadConfiguration, BadRecord, DependencyDown, StoreUnavailable
from feature_repo.hashing import hash_texts
from feature_repo.labels import FIELDS, INSERT, REQUIRED, Label
from feature_repo.redaction import redact
from feature_repo.rejects import KEPT_BYTES
from feature_repo.settings import Settings
from pipelines import requests
from pipelines.history import CSV_ROW, data_folder
from pipelines.parquet_file import atomically
from pipelines.requests import Connection
from pipelines.table_file import TableFile

log = logging.getLogger("vigil.lifecycle")

GROUP = "vigil-labels"
IMPORTED = "import_labels"  # in the audit log
MESSAGES = 1_000  # per transaction at most
LINGER_S = 1.0
PAUSE_S = 2.0
ROWS = 10_000  # per statement at most
_TRUTH = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}  # texts of a CSV

DEAD_LETTER = """INSERT INTO dead_letters (kafka_topic, kafka_partition, kafka_offset, code, detail, payload,
    payload_bytes, payload_sha256, ingested_at, processed_at) VALUES %s ON CONFLICT DO NOTHING"""


def consume(
    settings: Settings, stop: threading.Event, group: str = GROUP, told: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Until `stop` is set. With Kafka or PostgreSQL away it waits; nothing is skipped.

    `told` hears how many labels were taken and refused each time.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "reconnect.backoff.ms": 500,
            "log_level": 0,  # it logs every attempt to reconnect
        }
    )
    with closing(consumer):
        consumer.subscribe([labels.TOPIC])
        while not stop.is_set():
            messages = _sound(consumer.consume(MESSAGES, LINGER_S), settings)
            kept = _kept(settings, messages, stop) if messages else None
            if kept is not None:
                told(*kept)
                _commit(consumer, messages)


def _sound(messages: Sequence[Message], settings: Settings) -> list[Message]:
    """Those that are records. What passes by itself is logged; raises DependencyDown for what does not."""
    found = []
    for message in messages:
        error = message.error()
        if error is None:
            found.append(message)
        elif error.fatal():
            raise DependencyDown("Kafka", settings.kafka_bootstrap, error.str())
        else:
            log.warning("Kafka: %s", error.str())
    return found


def _kept(settings: Settings, messages: Sequence[Message], stop: threading.Event) -> tuple[int, int] | None:
    """Blocks until all are in PostgreSQL, through an outage too: taken and refused. None: stopped before that."""
    while True:
        try:
            with requests.connected(settings) as connection:
                taken, refused = take(connection, messages, datetime.now(UTC), settings.future_tolerance_s)
            log.info("%d labels taken, %d refused", taken, refused)
            return taken, refused
        except StoreUnavailable as error:
            log.warning("labels wait: %s", error)
            if stop.wait(PAUSE_S):
                return None


def take(connection: Connection, messages: Sequence[Message], now: datetime, ahead_s: float) -> tuple[int, int]:
    """Messages into `labels` and `dead_letters` in one transaction; how many went where."""
    found: list[Label] = []
    refused: list[tuple[Any, ...]] = []
    for message in messages:
        try:
            found.append(labels.parse(message.value(), now, ahead_s))
        except BadRecord as error:
            refused.append(_dead_letter(message, error, now))
    with connection, connection.cursor() as cursor:
        if found:
            execute_values(cursor, INSERT, [label.row for label in found])
        if refused:
            execute_values(cursor, DEAD_LETTER, refused)
    return len(found), len(refused)


def _dead_letter(message: Message, error: BadRecord, now: datetime) -> tuple[Any, ...]:
    payload = message.value() or b""
    kind, milliseconds = message.timestamp()
    arrived = now if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(milliseconds / 1_000, UTC)
    place = (message.topic(), message.partition(), message.offset())
    digest = hashlib.sha256(payload).digest()
    return (*place, error.code, error.message, redact(payload)[:KEPT_BYTES], len(payload), digest, arrived, now)


def _commit(consumer: Consumer, messages: Sequence[Message]) -> None:
    """Not committing is harmless: the labels come again."""
    ends: dict[int, int] = {}
    for message in messages:
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None, "only an error has none"
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    try:
        consumer.commit(offsets=[TopicPartition(labels.TOPIC, *end) for end in ends.items()], asynchronous=False)
    except KafkaException as error:
        log.warning("offsets not committed, labels will come again: %s", error.args[0].str())


# ---- from a file ------------------------------------------------------------------------------------


@dataclass
class Imported:
    """What an import did. `new` are rows the table did not hold; `refused` counts by code."""

    rows: int = 0
    new: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "new": self.new, "refused": dict(self.refused)}


def import_file(settings: Settings, file: Path) -> Imported:
    """Labels of a file that `read` reads. Raises BadConfiguration, StoreUnavailable."""
    done = Imported()
    with requests.connected(settings) as connection:
        for found in read(file, datetime.now(UTC), settings.future_tolerance_s, done):
            with connection, connection.cursor() as cursor:
                for start in range(0, len(found), ROWS):
                    part = [label.row for label in found[start : start + ROWS]]
                    execute_values(cursor, INSERT, part, page_size=len(part))
                    done.new += cursor.rowcount
        with connection, connection.cursor() as cursor:
            requests.audit(cursor, getpass.getuser(), IMPORTED, file.name, None, done.as_json())
    return done


def read(file: Path, now: datetime, ahead_s: float, done: Imported) -> Iterator[list[Label]]:
    """Of a Parquet or CSV file with columns transaction_id, is_fraud, label_time and maybe source, batch by batch.

    Without a source column the file's name is the source. Times without a zone are refused, as on the topic.
    Rows, and by code those that are no label, are counted in `done`. Raises BadConfiguration.
    """
    table = TableFile(file)
    missing = [name for name in REQUIRED if name not in table.names]
    if missing:
        raise BadConfiguration(f"{file} has no column {', '.join(missing)}")
    chosen = [name for name in FIELDS if name in table.names]

    def broken(_row: int, _why: str) -> None:
        done.rows += 1
        done.refused[CSV_ROW] += 1

    for batch in table.batches(broken):
        found: list[Label] = []
        for row in batch.select(chosen).to_pylist():
            done.rows += 1
            fields = {"source": file.name[:64], **row, "is_fraud": _TRUTH.get(row["is_fraud"], row["is_fraud"])}
            try:
                found.append(labels.of_fields(fields, now, ahead_s))
            except BadRecord as error:
                done.refused[error.code] += 1
        yield found


# ---- beside a data set ------------------------------------------------------------------------------

OF_EVERYBODY = """SELECT transaction_id, is_fraud, label_time, source, received_at FROM labels
    ORDER BY transaction_id, label_time, source"""


def fetch(settings: Settings, name: str) -> int | None:
    """Write what table `labels` says of a data set's payments to labels.parquet beside its history; returns how many.

    Whoever is about to read a data set's labels calls this first: training, gate, drift and replay read the file,
    and no server. Nothing is written where there is no history. None where there is no table: nobody ever started a
    stack here or named a database, and none answers. Raises StoreUnavailable.
    """
    try:
        return _fetched(settings, name)
    except StoreUnavailable:
        if "postgres_dsn" in settings.model_fields_set:
            raise
        log.warning("%s: no stack was ever started here, labels are those of the history", name)
        return None


def _fetched(settings: Settings, name: str) -> int:
    folder = data_folder(settings, name)
    if not (folder / "history.parquet").is_file():
        return 0
    known = _payments(folder / "history.parquet")
    count = 0
    with requests.connected(settings) as connection, connection.cursor("labels") as cursor:
        cursor.itersize = ROWS
        cursor.execute(OF_EVERYBODY)
        with atomically(folder / verdicts.FILE, verdicts.LABELS) as writer:
            while found := cursor.fetchmany(ROWS):
                columns = [
                    pa.array(column, field.type)
                    for column, field in zip(zip(*found, strict=True), verdicts.LABELS, strict=True)
                ]
                batch = pa.RecordBatch.from_arrays(columns, schema=verdicts.LABELS)
                hashes = hash_texts(batch.column("transaction_id"), "transaction_id")
                place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                batch = batch.filter(pa.array(known[place] == hashes))
                writer.write_batch(batch)
                count += batch.num_rows
    log.info("%s: %d labels of table labels", name, count)
    return count


def _payments(history: Path) -> npt.NDArray[np.uint64]:
    """Hashes of a history's transaction ids, ascending: eight bytes each, of ten million too."""
    with pq.ParquetFile(history) as file:
        batches = file.iter_batches(65_536, columns=["transaction_id"])
        ids = (batch.column("transaction_id").cast(pa.string()) for batch in batches)
        return np.sort(np.concatenate([np.empty(0, np.uint64), *(hash_texts(some, "transaction_id") for some in ids)]))
