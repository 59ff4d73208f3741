"""`vigil windows`: a Spark process of its own that counts decided payments over time.

It may be seconds behind and is never waited for. Its checkpoint holds what has been counted so far; where it is lost,
windows are counted anew from what topic `decisions` still holds, and none that was whole becomes smaller.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from feature_repo.errors import DependencyDown, WindowsStopped
from feature_repo.settings import Settings
from streaming.lock import only_one
from streaming.spark import spark_session
from streaming.window_store import WindowStore
from streaming.windows import bursts, by_minute, payments

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)

TOPIC = "decisions"
TRIGGER = "10 seconds"
MAX_RECORDS = 500_000  # a batch, when it has to catch up: what was not counted twice is known by 150 bytes each
POLL_S = 1.0
PAUSE_S = 5.0

# The number goes up when a query changes: Spark cannot go on from the state of another.
CHECKPOINT = "windows/1"
QUERIES: dict[str, tuple[Callable[["DataFrame"], "DataFrame"], str]] = {
    "windows": (by_minute, "update"),
    "sessions": (bursts, "append"),  # Spark's sessions know no update
}


class Interrupted(Exception):
    """The query is about to be stopped: nothing of the batch is written, and the next run takes it."""


class Counting:
    """One query: its batches into the store, its progress beside them."""

    def __init__(self, name: str, settings: Settings, stop: Event) -> None:
        self.name = name
        self._settings = settings
        self._stop = stop
        self._batches, self._progress = WindowStore(settings.postgres_dsn), WindowStore(settings.postgres_dsn)
        self._noted = -1
        self._busy = Lock()  # held while a batch is written
        self._leaving = False
        self.checkpoint = settings.home / CHECKPOINT / name

    def start(self, spark: "SparkSession", topic: str, *, until_caught_up: bool) -> None:
        build, mode = QUERIES[self.name]
        messages = (
            spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", self._settings.kafka_bootstrap)
            .option("kafka.isolation.level", "read_committed")
            .option("subscribe", topic)
            .option("startingOffsets", "earliest")
            .option("maxOffsetsPerTrigger", MAX_RECORDS)
            .option("failOnDataLoss", "false")  # away for longer than the topic holds: go on with what there is
            .load()
        )
        counted = build(payments(messages, self._settings.currency))
        writer = counted.writeStream.queryName(self.name).outputMode(mode).foreachBatch(self._take)
        writer = writer.option("checkpointLocation", str(self.checkpoint))
        self._query: StreamingQuery = (
            writer.trigger(availableNow=True) if until_caught_up else writer.trigger(processingTime=TRIGGER)
        ).start()

    def _take(self, batch: "DataFrame", number: int) -> None:
        """Write one batch; holds it, never skips it, while PostgreSQL does not answer."""
        with self._busy:
            if self._leaving:
                raise Interrupted
            rows = batch.toArrow()
            while True:
                try:
                    self._batches.write(rows)
                    return
                except DependencyDown as error:
                    log.warning("batch %d of %s holds for %.0f s: %s", number, self.name, PAUSE_S, error)
                    if self._stop.wait(PAUSE_S):
                        raise

    def look(self) -> bool:
        """Note the batches finished since the last look; whether the query runs. Raises WindowsStopped."""
        runs = self._query.isActive
        for one in self._query.recentProgress:
            if one["batchId"] > self._noted:
                self._note(one)
        failure = self._query.exception()
        if failure is not None and not self._stop.is_set():
            cause = str(failure).strip().split("\n")[0]
            raise WindowsStopped(self.name, str(self.checkpoint), cause)
        return bool(runs)

    def _note(self, batch: Any) -> None:
        late = sum(operator["numRowsDroppedByWatermark"] for operator in batch["stateOperators"])
        number, watermark = int(batch["batchId"]), batch["eventTime"].get("watermark", "1970-01-01T00:00:00Z")
        try:
            self._progress.note(self.name, str(self._query.id), number, watermark, late)
        except DependencyDown as error:
            log.warning("progress of %s waits: %s", self.name, error)
            return
        self._noted = number
        log.info(
            "batch %d of %s: %d messages, %d late, in %d ms",
            *(number, self.name, batch["numInputRows"], late, batch["batchDuration"]),
        )

    def end(self) -> None:
        """Wait for the batch under way first: to stop a query whose batch waits for us is to wait for each other."""
        with self._busy:
            self._leaving = True
        self._query.stop()


def run(settings: Settings, jars: list[Path], stop: Event, *, until_caught_up: bool = False) -> None:
    """Count until `stop` is set or, with `until_caught_up`, all that the topic holds now is counted.

    Raises AlreadyRunning, WindowsStopped.
    """
    with only_one(settings, "windows"):
        spark = session(settings, jars)
        try:
            count(spark, settings, stop, until_caught_up=until_caught_up)
        finally:
            spark.stop()


def count(
    spark: "SparkSession", settings: Settings, stop: Event, *, topic: str = TOPIC, until_caught_up: bool = False
) -> None:
    """`run` within a Spark session."""
    counting = [Counting(name, settings, stop) for name in QUERIES]
    for one in counting:
        one.start(spark, topic, until_caught_up=until_caught_up)
    try:
        while True:
            running = [one.look() for one in counting]  # each, also where the first is enough
            if not any(running) or stop.wait(POLL_S):
                return
    finally:
        stop.set()  # also where it is another query that failed: a batch that holds would be waited for without end
        for one in counting:
            one.end()


def session(settings: Settings, jars: list[Path]) -> "SparkSession":
    """One core, a small heap, no page: this process shall not be in the way of the stream."""
    options = {
        "spark.driver.memory": "640m",
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": settings.partitions,  # a checkpoint keeps the number it began with
        "spark.sql.adaptive.enabled": "false",  # no plan with state can use it, and each start warns of it
        "spark.sql.streaming.maxBatchesToRetainInMemory": 1,
        "spark.sql.streaming.pollingDelay": "100ms",
    }
    return spark_session(settings, jars, "local[1]", "windows", settings.home / "windows", options)
