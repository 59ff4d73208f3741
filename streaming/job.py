"""The Spark job: reads topic `transactions` and takes every range through the nine steps.

Spark gives each task exactly one partition's contiguous range; its checkpoint carries no truth and is
thrown away at every start, because the ledger and `folded_until` say where to begin.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from feature_repo.errors import DependencyDown, SchemaBreak, StateAhead, StateLost, VigilError, WorkerDied
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from serving.client import ModelClient
from streaming.ledger import Ledger
from streaming.metrics import StreamMetrics
from streaming.partition import NOBODY
from streaming.publish import ORIGIN_HEADER, Publisher
from streaming.records import PROCESSING_FAILED
from streaming.repair import publish_unpublished
from streaming.scoring import pins
from streaming.spark import spark_session
from streaming.states import StateStore
from streaming.task import RESULT_SCHEMA, TaskResult, run_task

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
EARLIEST = -2  # Spark's word for the beginning of a partition
ARROW_ROWS = 100_000  # a range arrives in one or few pieces


@dataclass(frozen=True)
class Batch:
    """What one micro-batch came to, over all partitions."""

    number: int
    seconds: float
    results: tuple[TaskResult, ...]

    @property
    def outcomes(self) -> Counter[str]:
        return sum((Counter(result.outcomes) for result in self.results), Counter())

    def line(self) -> str:
        """One line for the log: how many, how long, where the time went."""
        steps: Counter[str] = Counter()
        for result in self.results:
            steps.update(result.seconds)
        records = sum(self.outcomes.values())
        spent = " ".join(f"{step}={seconds:.3f}" for step, seconds in steps.items())
        counts = " ".join(f"{name}={count}" for name, count in sorted(self.outcomes.items()) if count)
        versions = {result.model_version for result in self.results}
        return f"batch {self.number}: {records} records in {self.seconds:.2f} s, model {versions}, {counts}; {spent}"


class Job:
    """The driver's side: where to start, what to pin, and what to do when a range cannot be taken now."""

    def __init__(
        self,
        settings: Settings,
        metrics: StreamMetrics,
        accepted: frozenset[tuple[int, int, int]] = frozenset(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._accepted = accepted
        self._metrics = metrics
        self._sleep = sleep
        self._ledger = Ledger(settings.postgres_dsn, settings.topic)
        self._states = StateStore(settings.redis_url)
        self._merchants = SnapshotStore(settings.redis_url)
        self._models = ModelClient(settings.serving_url, settings.model_timeout_s)
        self._publisher: Publisher | None = None
        self._repair = True
        self._partitions_ensured: date | None = None
        self.busy = Lock()  # held while a batch is taken: who stops the query waits for it
        self.stopped_by: VigilError | None = None

    def starting_offsets(self) -> str:
        """min(committed, folded) of every partition, for Spark. Raises StateLost and StateAhead."""
        starts: dict[str, int] = {str(p): EARLIEST for p in range(self._settings.partitions)}
        for partition, committed in self._ledger.positions().items():
            folded = self._states.folded(partition)
            if folded is None and committed:
                raise StateLost(partition, committed)
            if folded is not None and folded > committed:
                raise StateAhead(partition, folded, committed)
            starts[str(partition)] = min(committed, folded or 0) or EARLIEST
        return json.dumps({self._settings.topic: starts})

    def take(self, batch: "DataFrame", number: int) -> None:
        """Take one micro-batch; holds it, never skips it, while a store does not answer.

        Partitions that were committed meanwhile are recognised by the ledger and change nothing.
        """
        with self.busy:
            started = time.perf_counter()
            results = self._take(batch, number)
            done = Batch(number, time.perf_counter() - started, tuple(results))
            self._repair = self._repair or any(not result.published for result in results)
            log.info("%s", done.line())
            self._metrics.batch(done.seconds)

    def _take(self, batch: "DataFrame", number: int) -> list[TaskResult]:
        try:
            return self._hold(batch, number)
        except WorkerDied as error:
            log.error("batch %d is taken again: %s", number, error)
        try:
            return self._hold(batch, number)
        except WorkerDied as error:
            log.error("batch %d is taken in pieces: %s", number, error)
            return self._take_apart(batch, number)

    def _hold(self, batch: "DataFrame", number: int, failed: Mapping[int, str] = NOBODY) -> list[TaskResult]:
        """Take the batch, again and again while a store does not answer. Raises WorkerDied, and what is fatal."""
        pause = FIRST_PAUSE_S
        while True:
            results = self._attempt(batch, failed)
            self._metrics.ranges(results, time.time())
            failures = [result.error() for result in results if result.code]
            if not failures:
                return results
            fatal = next((error for error in failures if not isinstance(error, DependencyDown)), None)
            if fatal is not None:
                self.stopped_by = fatal
                raise fatal
            log.warning("batch %d holds for %.1f s: %s", number, pause, failures[0])
            self._metrics.hold(next(e.dependency for e in failures if isinstance(e, DependencyDown)))
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            self._repair = True

    def _take_apart(self, batch: "DataFrame", number: int) -> list[TaskResult]:
        """Halve each partition's range until the records that kill their worker stand alone, and give those up.

        Pieces are taken in the order of the log, each a range of its own. Raises SchemaBreak where more than
        a few records do: it is then rather the code or the machine that fails.
        """
        from pyspark.sql.functions import count, max, min

        columns = min("offset").alias("first"), max("offset").alias("last"), count("offset").alias("records")
        results: list[TaskResult] = []
        for row in batch.groupBy("partition").agg(*columns).collect():
            results += self._take_pieces(batch, number, row.partition, (row.first, row.last + 1), row.records)
        return results

    def _take_pieces(
        self, batch: "DataFrame", number: int, partition: int, offsets: tuple[int, int], count: int
    ) -> list[TaskResult]:
        results: list[TaskResult] = []
        given_up: dict[int, str] = {}
        pending = [offsets]
        while pending:
            first, until = pending.pop()
            piece = batch.where(f"partition = {partition} AND offset >= {first} AND offset < {until}")
            try:
                results += self._hold(piece, number)
                continue
            except WorkerDied as error:
                cause = error
            if until - first > 1:
                middle = (first + until) // 2
                pending += [(middle, until), (first, middle)]
                continue
            given_up[first] = "the process that worked on it died, alone with it as well"
            log.error("partition %d, offset %d is given up: %s", partition, first, cause)
            if len(given_up) > self._settings.dead_letter_floor:
                offsets_up = sorted(given_up)
                self.stopped_by = SchemaBreak(
                    partition, offsets_up[0], offsets_up[-1], len(given_up), count, PROCESSING_FAILED
                )
                raise self.stopped_by
            results += self._hold(piece, number, given_up)
        return results

    def _attempt(self, batch: "DataFrame", failed: Mapping[int, str]) -> list[TaskResult]:
        try:
            today = datetime.now(UTC).date()
            if self._partitions_ensured != today:
                self._ledger.ensure_partitions()
                self._partitions_ensured = today
            if self._repair:
                self._publisher = self._publisher or Publisher(self._settings.kafka_bootstrap)
                publish_unpublished(self._settings, self._ledger, self._publisher)
                self._repair = False
            snapshot = self._merchants.current()
            pinned = pins(self._models)
        except VigilError as error:
            return [TaskResult.failed(-1, error)]
        task = partial(run_task, self._settings, pinned, self._accepted, snapshot, dict(failed))
        try:
            return [TaskResult.of(row.asDict()) for row in batch.mapInArrow(task, RESULT_SCHEMA).collect()]
        except Exception as error:
            if not _of_a_worker(error):
                raise
            raise WorkerDied(str(error).strip().splitlines()[-1]) from error


def _of_a_worker(error: Exception) -> bool:
    """Whether Spark tells of a Python worker that died or raised, not of Kafka or of itself."""
    return any(sign in str(error) for sign in ("Python worker exited", "Python worker failed", "Traceback (most"))


def session(settings: Settings, jars: list[Path], master: str) -> "SparkSession":
    """A Spark session for the stream: Arrow in large pieces, no speculation, nothing beyond loopback."""
    # It would log a stack trace of what a batch raises; whoever ends the stream tells it, once and clearly.
    logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)
    os.environ["PYSPARK_PYTHON"] = sys.executable  # the only way Spark takes it outside spark-submit
    options = {
        "spark.driver.memory": "1g",
        # On two cores the optimising compiler was the busiest thread for the first minutes (20 µs a record,
        # measured 2026-11), for code that takes a tenth of the road; so was concurrent marking of a small heap.
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC -XX:TieredStopAtLevel=1",
        "spark.ui.port": settings.spark_ui_port,
        "spark.ui.retainedJobs": 100,
        "spark.ui.retainedStages": 100,
        "spark.sql.ui.retainedExecutions": 50,
        "spark.sql.execution.arrow.maxRecordsPerBatch": ARROW_ROWS,
        "spark.sql.execution.arrow.maxBytesPerBatch": 256 << 20,  # large payloads must not fill the driver's memory
        # Asked for new offsets a hundred times a second by default: a tenth of a core, for Kafka as well.
        "spark.sql.streaming.pollingDelay": "40ms",
        "spark.python.worker.reuse": "true",
        "spark.python.daemon.module": "streaming.daemon",
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.speculation": "false",
        "spark.task.maxFailures": 1,
    }
    return spark_session(settings, jars, master, "stream", settings.home / "spark", options)


def start(spark: "SparkSession", job: Job, settings: Settings, *, until_caught_up: bool) -> "StreamingQuery":
    """Begin reading. With `until_caught_up` the query ends at the offsets the topic has now."""
    checkpoint = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=_scratch(settings)))
    source = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka_bootstrap)
        .option("kafka.isolation.level", "read_committed")
        .option("kafka.max.poll.records", 50_000)
        # The broker answers a connection's requests in order: an empty fetch that waits the default 500 ms
        # holds up the next range's first request by as much (measured 2026-11: 0.5 s of every task).
        .option("kafka.fetch.max.wait.ms", 20)
        .option("kafka.fetch.max.bytes", 64 << 20)
        .option("kafka.max.partition.fetch.bytes", 32 << 20)
        .option("kafka.receive.buffer.bytes", 1 << 20)
        .option("subscribe", settings.topic)
        .option("startingOffsets", job.starting_offsets())
        .option("maxOffsetsPerTrigger", settings.max_offsets_per_trigger)
        .option("includeHeaders", "true")
        .option("failOnDataLoss", "true")
        .load()
        # value binary, partition int, offset bigint, timestamp timestamp, moved boolean (null without headers)
        .selectExpr(
            "value", "partition", "offset", "timestamp", f"array_contains(headers.key, '{ORIGIN_HEADER}') AS moved"
        )
    )
    writer = source.writeStream.foreachBatch(job.take).option("checkpointLocation", str(checkpoint))
    return (writer.trigger(availableNow=True) if until_caught_up else writer).start()


def _scratch(settings: Settings) -> Path:
    """A fresh folder for the disposable checkpoint; those of earlier runs are removed."""
    folder = settings.home / "spark"
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old, ignore_errors=True)
    (folder / "local").mkdir(parents=True, exist_ok=True)
    return folder
