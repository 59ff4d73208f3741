"""`vigil stream`: one job per home folder, stopped between batches, never inside one."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import redis

from feature_repo.errors import AlreadyRunning, BadConfiguration, DependencyDown
from feature_repo.exposition import served
from feature_repo.settings import Settings
from streaming.job import Job, session, start
from streaming.metrics import StreamMetrics, watching
from streaming.warm import warm

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
) -> None:
    """Run the job until `stop` is set or, with `until_caught_up`, it has read what the topic holds now.

    Stops between batches. Raises what stopped it otherwise: LedgerMoved, Fenced, StateLost, StateAhead,
    SchemaBreak, DependencyDown at the start, AlreadyRunning.
    """
    with only_one(settings), served(settings.bind, settings.stream_metrics_port) as registry:
        check_redis(settings)
        warm()
        metrics = StreamMetrics(registry)
        job = Job(settings, metrics, accepted)
        job.starting_offsets()  # refuse before Spark starts, which takes seconds
        spark = session(settings, jars, master)
        try:
            query = start(spark, job, settings, until_caught_up=until_caught_up)
            with watching(settings, metrics):
                while query.isActive:
                    if stop.is_set():
                        with job.busy:
                            query.stop()
                    time.sleep(POLL_S)
            if job.stopped_by:
                raise job.stopped_by
            failure = query.exception()
            if failure:
                raise failure
        finally:
            spark.stop()


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold this home folder's stream lock; the kernel releases it whatever way the process ends."""
    folder = settings.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stream.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise AlreadyRunning("vigil stream", int(lock.read() or 0)) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


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
