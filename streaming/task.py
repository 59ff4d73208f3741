"""A Spark task as Python sees it: a range of offsets in, what became of it out.

Errors of ours come back as results, not as exceptions: Spark would turn them into a stack trace and the
driver could no longer tell a store that is away from a broken promise.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from feature_repo.errors import VigilError
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from serving.client import ModelClient
from streaming.ledger import Ledger
from streaming.offsets import OffsetRange
from streaming.partition import Road, Taken
from streaming.publish import Publisher
from streaming.reader import Reader
from streaming.scoring import Challenger, Pins, Scorer
from streaming.states import StateStore


@lru_cache(maxsize=1)
def _road(settings: Settings) -> Road:
    """This worker's connections, kept between tasks."""
    models = ModelClient(settings.serving_url, settings.model_timeout_s)
    return Road(
        settings,
        Ledger(settings.postgres_dsn, settings.topic),
        StateStore(settings.redis_url),
        Publisher(settings.kafka_bootstrap, settings.publish_timeout_s),
        Scorer(models, settings.score_chunk_rows, settings.model_timeout_s),
        Challenger(models, settings.score_chunk_rows, settings.model_timeout_s),
    )


@lru_cache(maxsize=1)
def _snapshots(redis_url: str) -> SnapshotStore:
    """Keeps the snapshot it read last, for the tasks of many batches."""
    return SnapshotStore(redis_url)


@lru_cache(maxsize=1)
def _reader(settings: Settings) -> Reader:
    """Stays at the place where it has read to."""
    return Reader(settings)


def run_task(
    settings: Settings,
    pins: Pins,
    accepted: frozenset[tuple[int, int, int]],
    snapshot_id: str | None,
    failed: Mapping[int, str],
    publish: bool,
    ranges: Sequence[OffsetRange],
    number: int,
    _: Iterable[object],
) -> Iterator[Taken | VigilError]:
    """Take range `number` of a batch; answers what each piece came to, up to the first that failed."""
    wanted = ranges[number]
    try:
        merchants = _snapshots(settings.redis_url).load(snapshot_id)
        began = time.perf_counter()
        for records in _reader(settings).read(wanted):
            reading = {"read": time.perf_counter() - began}
            taken = _road(settings).take(records, pins, accepted, merchants, failed, publish=publish)
            taken.seconds = reading | taken.seconds
            yield taken
            began = time.perf_counter()
    except VigilError as error:
        yield error
