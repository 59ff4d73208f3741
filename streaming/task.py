"""A Spark task as Python sees it: a range of offsets in, what became of it out.

Errors of ours travel as results, not as exceptions: Spark would turn them into a stack trace and the
driver could no longer tell a store that is away from a broken promise.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from feature_repo import errors
from feature_repo.errors import DependencyDown, VigilError
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


class RemoteFailure(VigilError):
    """An error of ours that happened in a task, with the code, sentence and remedy it had there."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        for kind in vars(errors).values():
            if isinstance(kind, type) and issubclass(kind, VigilError) and kind.code == code:
                self.exit_code, self.family = kind.exit_code, kind.family


@dataclass(frozen=True)
class TaskResult:
    """What a task answers; `code` is set, and little else, where it failed."""

    partition: int
    first: int = 0
    until: int = 0
    outcomes: dict[str, int] | None = None
    seconds: dict[str, float] | None = None
    published: bool = True
    model_version: str | None = None
    oldest: int = 0
    unscored: dict[str, int] | None = None
    late: int = 0
    flagged: int = 0
    code: str | None = None
    message: str | None = None
    evidence: str | None = None

    @classmethod
    def done(cls, taken: Taken) -> "TaskResult":
        return cls(
            taken.partition,
            taken.first,
            taken.until,
            dict(taken.outcomes),
            taken.seconds,
            taken.published,
            taken.model_version,
            taken.oldest,
            taken.unscored,
            taken.late,
            taken.flagged,
        )

    @classmethod
    def failed(cls, partition: int, error: VigilError) -> "TaskResult":
        evidence = f"{error.dependency}|{error.address}" if isinstance(error, DependencyDown) else error.remedy
        message = error.cause if isinstance(error, DependencyDown) else error.message
        return cls(partition, outcomes={}, seconds={}, code=error.code, message=message, evidence=evidence)

    def error(self) -> VigilError:
        """The failure as the driver raises it."""
        if self.code == DependencyDown.code:
            dependency, address = (self.evidence or "|").split("|", 1)
            return DependencyDown(dependency, address, self.message or "")
        return RemoteFailure(self.code or "", self.message or "", self.evidence or "")


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
) -> Iterator[TaskResult]:
    """Take range `number` of a batch; answers what each piece came to, up to the first that failed."""
    wanted = ranges[number]
    try:
        merchants = _snapshots(settings.redis_url).load(snapshot_id)
        began = time.perf_counter()
        for records in _reader(settings).read(wanted):
            reading = {"read": time.perf_counter() - began}
            taken = _road(settings).take(records, pins, accepted, merchants, failed, publish=publish)
            yield TaskResult.done(replace(taken, seconds=reading | taken.seconds))
            began = time.perf_counter()
    except VigilError as error:
        yield TaskResult.failed(wanted.partition, error)
