"""A Spark task as Python sees it: Arrow batches of records in, one row of results out.

Errors of ours travel as that row, not as exceptions: Spark would turn them into a stack trace and the
driver could no longer tell a store that is away from a broken promise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import errors
from feature_repo.errors import DependencyDown, VigilError
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from serving.client import ModelClient
from streaming.ledger import Ledger
from streaming.partition import Road, Taken
from streaming.publish import Publisher
from streaming.records import Records
from streaming.scoring import Challenger, Pins, Scorer
from streaming.states import StateStore

RESULT_SCHEMA = (
    "partition int, first bigint, until bigint, outcomes map<string,bigint>, seconds map<string,double>, "
    "published boolean, model_version string, oldest bigint, unscored map<string,bigint>, late bigint, flagged bigint, "
    "code string, message string, evidence string"
)
_ARROW = pa.schema(
    [
        ("partition", pa.int32()),
        ("first", pa.int64()),
        ("until", pa.int64()),
        ("outcomes", pa.map_(pa.string(), pa.int64())),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("published", pa.bool_()),
        ("model_version", pa.string()),
        ("oldest", pa.int64()),
        ("unscored", pa.map_(pa.string(), pa.int64())),
        ("late", pa.int64()),
        ("flagged", pa.int64()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("evidence", pa.string()),
    ]
)


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
    def of(cls, row: dict[str, Any]) -> "TaskResult":
        return cls(**row)

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

    def to_arrow(self) -> pa.RecordBatch:
        values = {name: getattr(self, name) for name in _ARROW.names}
        for name in ("outcomes", "seconds", "unscored"):
            values[name] = list((values[name] or {}).items())
        return pa.RecordBatch.from_pylist([values], schema=_ARROW)


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


def run_task(
    settings: Settings,
    pins: Pins,
    accepted: frozenset[tuple[int, int, int]],
    snapshot_id: str | None,
    failed: Mapping[int, str],
    publish: bool,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Take the range of one Kafka partition that Spark gave this task; answers one row, or none for no records."""
    pieces = [batch for batch in batches if batch.num_rows]
    if not pieces:
        return
    records = _records(pa.Table.from_batches(pieces))
    try:
        merchants = _snapshots(settings.redis_url).load(snapshot_id)
        taken = _road(settings).take(records, pins, accepted, merchants, failed, publish=publish)
        result = TaskResult.done(taken)
    except VigilError as error:
        result = TaskResult.failed(records.partition, error)
    yield result.to_arrow()


def _records(table: pa.Table) -> Records:
    """Spark's rows as one range. A task that holds several partitions breaks the order and is refused."""
    batch = table.combine_chunks().to_batches()[0]
    partitions = batch.column("partition").to_numpy()
    offsets = batch.column("offset").to_numpy()
    if (partitions != partitions[0]).any() or (np.diff(offsets) <= 0).any():
        raise RuntimeError("a task must hold one contiguous range of one Kafka partition")
    return Records(
        partition=int(partitions[0]),
        offsets=offsets,
        values=batch.column("value"),
        ingested=batch.column("timestamp").cast(pa.int64()).to_numpy(),
        moved=batch.column("moved").fill_null(False).to_numpy(zero_copy_only=False),
    )
