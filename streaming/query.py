"""The Spark query that plans the job's batches.

Its checkpoint carries no truth and is thrown away at every start, because the ledger and `folded_until` say where to
begin.
"""

import logging
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.settings import Settings
from streaming.archive import FOLDER, archive
from streaming.job import Job
from streaming.spark import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery


def session(settings: Settings, jars: list[Path], master: str) -> "SparkSession":
    """A Spark session for the stream: no speculation, nothing beyond `bind`.

    Executors of a cluster get our code as an archive. Their Python is PYSPARK_PYTHON, with what requirements.lock
    names; by default they have it where the driver has it. Settings reach them inside the tasks, never as arguments.
    """
    # It would log a stack trace of what a batch raises; whoever ends the stream tells it, once and clearly.
    logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the only way Spark takes it outside spark-submit
    options = {
        "spark.driver.memory": "512m",  # it plans: no record passes through it
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.ui.port": settings.spark_ui_port,
        "spark.ui.retainedJobs": 100,
        "spark.ui.retainedStages": 100,
        "spark.sql.ui.retainedExecutions": 50,
        # Asked for new offsets a hundred times a second by default: a tenth of a core, for Kafka as well.
        "spark.sql.streaming.pollingDelay": "40ms",
        "spark.python.worker.reuse": "true",
        "spark.python.daemon.module": "streaming.daemon",
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.speculation": "false",
        "spark.task.maxFailures": 1,
    }
    folder = settings.home / "spark"
    if not master.startswith("local"):
        options["spark.archives"] = f"{archive(folder)}#{FOLDER}"
        options["spark.executorEnv.PYTHONPATH"] = FOLDER
    return spark_session(settings, jars, master, "stream", folder, options)


def start(spark: "SparkSession", job: Job, settings: Settings, *, until_caught_up: bool) -> "StreamingQuery":
    """Begin reading. With `until_caught_up` the query ends at the offsets the topic has now."""
    checkpoint = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=_scratch(settings)))
    source = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka_bootstrap)
        .option("kafka.isolation.level", "read_committed")
        .option("subscribe", settings.topic)
        .option("startingOffsets", job.starting_offsets())
        .option("maxOffsetsPerTrigger", job.pace.cap)
        .option("failOnDataLoss", "true")
        .load()
    )
    writer = source.writeStream.foreachBatch(partial(job.take, checkpoint))
    writer = writer.option("checkpointLocation", checkpoint.as_uri())  # a bare path might be meant for HDFS
    return (writer.trigger(availableNow=True) if until_caught_up else writer).start()


def _scratch(settings: Settings) -> Path:
    """A fresh folder for the disposable checkpoint; those of earlier runs are removed."""
    folder = settings.home / "spark"
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old, ignore_errors=True)
    (folder / "local").mkdir(parents=True, exist_ok=True)
    return folder
