"""`vigil stream`: one job per home folder, stopped between batches, never inside one."""

import logging
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import redis
from py4j.protocol import Py4JError

from feature_repo.errors import BadConfiguration, DependencyDown, StreamStopped, VigilError
from feature_repo.exposition import served
from feature_repo.settings import Settings
from streaming.breaker import pause_s
from streaming.job import FIRST_PAUSE_S, LONGEST_PAUSE_S, Job
from streaming.lock import only_one
from streaming.metrics import StreamMetrics, watching
from streaming.query import session, start
from streaming.reporter import reported
from streaming.states import StateStore
from streaming.warm import warm

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)

POLL_S = 0.2


def run(
    settings: Settings,
    jars: list[Path],
    stop: Event,
    *,
    master: str = "local[*]",
    until_caught_up: bool = False,
    accepted: frozenset[tuple[int, int, int]] = frozenset(),
    accept_gone: bool = False,
) -> None:
    """Run the job until `stop` is set or, with `until_caught_up`, it has read what the topic holds now.

    Stops between batches, at once where one is held. Raises what stopped it otherwise: LedgerMoved, Fenced,
    StateLost, StateAhead, StateBehind, RecordsGone, SchemaBreak, StreamStopped, DependencyDown at the start,
    AlreadyRunning.
    """
    with (
        only_one(settings, "stream"),
        served(settings.internal_bind, settings.stream_metrics_port) as registry,
        reported(settings, "stream") as reporter,
    ):
        check_redis(settings)
        metrics = StreamMetrics(registry)
        job = Job(settings, metrics, accepted, stop.wait, accept_gone=accept_gone)
        job.starting_offsets()  # refuse before anything that takes seconds: `vigil state rebuild` waits for the lock
        with closing(StateStore(settings.redis_url)) as states:
            states.mark_placement(range(settings.partitions), settings.placement)
        warm()
        spark = session(settings, jars, master)
        try:
            query = start(spark, job, settings, until_caught_up=until_caught_up)
            with watching(settings, metrics, job, reporter):
                while query.isActive:
                    if stop.is_set():
                        job.leave()
                        query.stop()
                    elif not until_caught_up and job.pace.changed(time.monotonic()):
                        log.info("batches of at most %d records from now on: %s", job.pace.cap, job.pace.line())
                        job.leave()
                        query.stop()
                        if job.stopped_by is None:  # else the last batch under way ended it
                            query = _again(spark, job, settings, stop) or query
                    time.sleep(POLL_S)
            raise_why(job.stopped_by, None if job.interrupted else query.exception())
        except (Py4JError, ConnectionError) as error:
            raise StreamStopped(f"its JVM does not answer ({type(error).__name__})") from error
        finally:
            with suppress(Py4JError, ConnectionError):
                spark.stop()


def _again(spark: "SparkSession", job: Job, settings: Settings, stop: Event) -> "StreamingQuery | None":
    """A new query from where the ledger stands, once all stores answer; None where the job is asked to end before."""
    job.come_back()
    for tries in count():
        try:
            return start(spark, job, settings, until_caught_up=False)
        except DependencyDown as error:
            log.warning("the next batch holds: %s", error)
            if stop.wait(pause_s(tries, FIRST_PAUSE_S, LONGEST_PAUSE_S)):
                break
    job.interrupted = True
    return None


def raise_why(ours: VigilError | None, sparks: Exception | None) -> None:
    """What ended the query, as one error of ours; nothing where it was asked to end."""
    if ours is not None:
        raise ours
    if sparks is not None:
        raise StreamStopped(str(sparks).strip().split("\n")[0]) from sparks


def check_redis(settings: Settings) -> None:
    """Refuse a Redis that may evict user states. Raises DependencyDown and BadConfiguration."""
    try:
        with redis.Redis.from_url(settings.redis_url, socket_timeout=5) as client:
            policy = client.info("memory").get("maxmemory_policy")
    except redis.RedisError as error:
        raise DependencyDown("Redis", settings.redis_url.split("@")[-1], str(error)) from error
    if policy != "noeviction":
        raise BadConfiguration(
            f"Redis evicts keys (maxmemory-policy {policy}): user states would be lost",
            remedy="set maxmemory-policy noeviction",
        )
