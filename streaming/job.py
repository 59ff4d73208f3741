"""The Spark job: takes every range of topic `transactions` through the nine steps.

Spark plans the batches (query.py) and gives each task exactly one partition's contiguous range, which the task reads.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from confluent_kafka import Consumer

from feature_repo.conditions import Condition
from feature_repo.errors import (
    BadConfiguration,
    DependencyDown,
    LedgerMoved,
    RecordsGone,
    SchemaBreak,
    StateAhead,
    StateBehind,
    StateLost,
    VigilError,
    WorkerDied,
)
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from feature_repo.switches import INTAKE, PAUSED, SCORED, SCORING
from serving.client import ModelClient
from streaming.amiss import UNPUBLISHED_S, amiss
from streaming.breaker import Breaker, pause_s
from streaming.decisions import MODEL_DOWN, MODEL_FAILED, RULES_ONLY, UNSCORED_REASONS
from streaming.ledger import Ledger
from streaming.metrics import StreamMetrics
from streaming.offsets import OffsetRange, planned
from streaming.pace import Pace
from streaming.partition import NOBODY, Taken
from streaming.placement import require
from streaming.publish import Publisher
from streaming.records import PROCESSING_FAILED
from streaming.repair import publish_unpublished
from streaming.scoring import Pins, pins, probe
from streaming.states import StateStore
from streaming.task import run_task
from streaming.watch import Span, spans

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0  # bounds of the pauses of a batch that is held
PAUSED_POLL_S = 0.5
MODEL_PAUSES_S = (0.5, 5.0)  # bounds of the pauses between two probes of the model service
SINK_PAUSES_S = (0.5, 10.0)
LOOKS_BEHIND = 3
REPAIRED_AT_ONCE = 10  # ranges left unpublished that a batch waits for; more are published beside the batches
EARLIEST = -2  # Spark's word for the beginning of a partition


@dataclass(frozen=True)
class Batch:
    """What one micro-batch came to, over all partitions."""

    number: int
    seconds: float
    results: tuple[Taken, ...]

    @property
    def outcomes(self) -> Counter[str]:
        return sum((result.outcomes for result in self.results), Counter())

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


def wait(seconds: float) -> bool:
    """Sleeps; nobody is going to end it."""
    time.sleep(seconds)
    return False


class Interrupted(Exception):
    """The job was asked to end while it held a batch: nothing of it is begun."""


class Job:
    """The driver's side: where to start, what to pin, and what to do when a range cannot be taken now.

    `wait` sleeps for so many seconds and is true once the job is to end.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: StreamMetrics,
        accepted: frozenset[tuple[int, int, int]] = frozenset(),
        wait: Callable[[float], bool] = wait,
        *,
        accept_gone: bool = False,
    ) -> None:
        self._settings = settings
        self._accepted = accepted
        self._accept_gone = accept_gone
        self._metrics = metrics
        self._wait = wait
        self._ledger = Ledger(settings.postgres_dsn, settings.topic)
        self._states = StateStore(settings.redis_url)
        self._merchants = SnapshotStore(settings.redis_url)
        self._models = ModelClient(settings.serving_url, settings.model_timeout_s)
        self.model_service = Breaker("model service", self._ask_for_a_score, wait, *MODEL_PAUSES_S)
        self.sinks = Breaker("publishing to Kafka", self._publish_unpublished, wait, *SINK_PAUSES_S)
        self.pace = Pace(settings.batch_target_s, settings.max_offsets_per_trigger)
        self.waits_for: str | None = None  # the server a batch is held for
        self._model_failed = False
        self._repair = True
        self._repairing: Thread | None = None
        self._given_up = 0  # records that killed their worker since a batch went through
        self._committed: dict[int, int] = {}  # what this job knows to be decided, by partition
        self.waited = 0  # pauses so far
        self._attempts = 0
        self._looks_behind = 0
        self._warned = False
        self._partitions_ensured: date | None = None
        self._busy = Lock()  # held while a batch is taken
        self._leaving = False
        self.stopped_by: VigilError | None = None
        self.interrupted = False

    def starting_offsets(self) -> str:
        """min(committed, folded) of every partition, for Spark, which wants all that Kafka has named.

        Raises PlacementDiffers, GrowthUnfinished, StateLost, StateAhead, StateBehind and RecordsGone.
        """
        require(self._settings, self._ledger)
        found = self._spans()
        starts: dict[str, int] = {str(p): EARLIEST for p in found}
        self._committed = self._ledger.positions()
        for partition, committed in self._committed.items():
            folded = self._states.folded(partition)
            if folded is None and committed:
                raise StateLost(partition, committed)
            if folded is not None and folded > committed:
                raise StateAhead(partition, folded, committed)
            start = min(committed, folded or 0)
            if partition in found and 0 < start < (oldest := found[partition].low):
                self._pass_over(partition, start, committed, oldest)
                start = oldest
            starts[str(partition)] = start or EARLIEST
        return json.dumps({self._settings.topic: starts})

    def _pass_over(self, partition: int, start: int, committed: int, oldest: int) -> None:
        """Have the ledger say that there is nothing to decide before the oldest record, if an operator said so."""
        if self._ledger.decided(partition, start, min(committed, oldest)):
            raise StateBehind(partition, start, oldest, gone=True)
        if committed >= oldest:
            return
        if not self._accept_gone:
            raise RecordsGone(self._settings.topic, partition, committed, oldest)
        self._ledger.pass_over(partition, committed, oldest)
        log.error(
            "%s-%d: offsets %d to %d have no outcome and are gone, passed over as accepted",
            self._settings.topic, partition, committed, oldest - 1,
        )  # fmt: skip

    def _spans(self) -> dict[int, Span]:
        """What Kafka has of the topic, by partition. Raises BadConfiguration, DependencyDown."""
        settings = self._settings
        with closing(Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "vigil-look"})) as consumer:
            found = spans(consumer, settings.topic, settings.kafka_bootstrap)
        if len(found) < settings.partitions:
            raise BadConfiguration(f"topic {settings.topic} has {len(found)} partitions, not {settings.partitions}")
        return found

    def _warn_of(self, partitions: set[int]) -> None:
        """Of partitions that somebody added to the topic: none of our users lie there."""
        added = sorted(p for p in partitions if p >= self._settings.partitions)
        if added and not self._warned:
            self._warned = True
            log.warning(
                "partitions %s of %s were added while users are placed by %d: what comes there is produced again into"
                " its user's partition; vigil topic grow takes them over",
                added, self._settings.topic, self._settings.partitions,
            )  # fmt: skip

    def leave(self) -> None:
        """Wait for the batch under way, and begin no other one: the query can then be stopped.

        To stop it with a batch waiting for us would be to wait for each other.
        """
        with self._busy:
            self._leaving = True

    def come_back(self) -> None:
        """Take the batches of a new query."""
        self._leaving = self.interrupted = False

    def take(self, checkpoint: Path, batch: "DataFrame", number: int) -> None:
        """Take micro-batch `number` of the query with this checkpoint.

        Holds it, never skips it, while a store does not answer or the stream is paused.

        Partitions that were committed meanwhile are recognised by the ledger and change nothing.
        """
        with self._busy:
            if self._leaving:
                self.interrupted = True
                raise Interrupted
            started, waited = time.perf_counter(), self.waited
            try:
                ranges = planned(checkpoint, self._settings.topic, number)  # none in a first batch where all is decided
                results = self._take(batch.sparkSession.sparkContext, ranges, number) if ranges else []
            except VigilError as error:
                self.stopped_by = error
                raise
            done = Batch(number, time.perf_counter() - started, tuple(results))
            log.info("%s", done.line())
            self._warn_of({result.partition for result in results})
            self._metrics.batch(done.seconds)
            if self.waited == waited:  # what was held tells nothing of what a record costs
                self.pace.batch(sum(done.outcomes.values()), done.seconds)

    def _take(self, spark: "SparkContext", ranges: Sequence[OffsetRange], number: int) -> list[Taken]:
        for how in ("again", "in pieces"):
            try:
                results = self._hold(spark, ranges, number)
            except WorkerDied as error:
                log.error("batch %d is taken %s: %s", number, how, error)
            else:
                self._given_up = 0
                return results
        return [result for each in ranges for result in self._take_apart(spark, each, number)]

    def _hold(
        self, spark: "SparkContext", ranges: Sequence[OffsetRange], number: int, failed: Mapping[int, str] = NOBODY
    ) -> list[Taken]:
        """Take the batch, again and again while a store does not answer. Raises WorkerDied, and what is fatal."""
        for tries in count():
            try:
                results = self._attempt(spark, ranges, number, failed)
                self.waits_for = None
                return results
            except DependencyDown as error:
                pause = pause_s(tries, FIRST_PAUSE_S, LONGEST_PAUSE_S)
                log.warning("batch %d holds for %.1f s: %s", number, pause, error)
                self._metrics.hold(error.dependency)
                self.waits_for = error.dependency
                self._repair = True
                self._sleep(pause)
        raise AssertionError("counts for ever")

    def _sleep(self, seconds: float) -> None:
        self.waited += 1
        if self._wait(seconds):
            self.interrupted = True
            raise Interrupted

    def _take_apart(self, spark: "SparkContext", whole: OffsetRange, number: int) -> list[Taken]:
        """Halve a range until the records that kill their worker stand alone, and give those up.

        Pieces are taken in the order of the log, each a range of its own. Raises SchemaBreak where more than
        a few records do, in batches one after the other: it is then rather the code or the machine that fails.
        """
        partition, first, until = whole
        results: list[Taken] = []
        given_up: dict[int, str] = {}
        pending = [whole]
        while pending:
            piece = pending.pop()
            try:
                results += self._hold(spark, [piece], number)
                continue
            except WorkerDied as error:
                cause = error
            if piece.until - piece.first > 1:
                middle = (piece.first + piece.until) // 2
                pending += [piece._replace(first=middle), piece._replace(until=middle)]
                continue
            given_up[piece.first] = "the process that worked on it died, alone with it as well"
            log.error("partition %d, offset %d is given up: %s", partition, piece.first, cause)
            self._given_up += 1
            if self._given_up > self._settings.dead_letter_floor:
                raise SchemaBreak(
                    partition, min(given_up), max(given_up), self._given_up, until - first, PROCESSING_FAILED
                )
            results += self._hold(spark, [piece], number, given_up)
        return results

    def _attempt(
        self, spark: "SparkContext", ranges: Sequence[OffsetRange], number: int, failed: Mapping[int, str]
    ) -> list[Taken]:
        """Take the batch once, a task for each range.

        Raises what keeps a range from being done, the fatal before what may pass.
        """
        scoring = self._begin(number)
        self._refuse_older_ledger()
        today = datetime.now(UTC).date()
        if self._partitions_ensured != today:
            self._ledger.ensure_partitions()
            self._partitions_ensured = today
        publish = self._repaired()
        snapshot = self._merchants.current()
        pinned = self._pins() if scoring == SCORED else Pins(None, silence=RULES_ONLY)
        task = partial(run_task, self._settings, pinned, self._accepted, snapshot, dict(failed), publish, ranges)
        try:
            answers = spark.range(len(ranges), numSlices=len(ranges)).mapPartitionsWithIndex(task).collect()
        except Exception as error:
            if not _of_a_worker(error):
                raise
            said, *_ = str(error).split("\n\tat ", 1)  # what follows is Java's stack
            raise WorkerDied(said.strip().splitlines()[-1]) from error
        done = [answer for answer in answers if isinstance(answer, Taken)]
        self._committed |= {each.partition: each.until for each in done}
        self._metrics.ranges(done, time.time())
        self._learn(done, pinned, publish)
        failures = [answer for answer in answers if isinstance(answer, VigilError)]
        if failures:
            raise next((error for error in failures if not isinstance(error, DependencyDown)), failures[0])
        return done

    def _refuse_older_ledger(self) -> None:
        """Whatever lies between an older ledger and this batch would be passed over. Raises LedgerMoved."""
        now = self._ledger.positions()
        for partition, until in self._committed.items():
            if now.get(partition, 0) < until:
                raise LedgerMoved(self._settings.topic, partition, back=True)

    def _begin(self, number: int) -> str:
        """Wait while the stream is paused; answers how the switch of scoring stands."""
        said = False
        while (standing := self._ledger.switches())[INTAKE] == PAUSED:
            if not said:
                log.warning("paused: batch %d waits for `vigil switch resume`", number)
            said, self.waits_for = True, None
            self._sleep(PAUSED_POLL_S)
        return standing[SCORING]

    def _repaired(self) -> bool:
        """Publish what a crash left behind; answers whether ranges are to be published now."""
        if self._repair and not self.sinks.open and not (self._repairing and self._repairing.is_alive()):
            self._repair = False
            ranges, _ = self._ledger.unpublished()
            if ranges > REPAIRED_AT_ONCE:
                self._repairing = Thread(target=self._repair_beside, name="vigil-repair", daemon=True)
                self._repairing.start()
            elif ranges:
                self._repair_now()
        return not self.sinks.open

    def _repair_now(self) -> None:
        try:
            self._publish_unpublished()
        except DependencyDown as error:
            if error.dependency != "Kafka":
                raise
            self.sinks.trip(error)

    def _repair_beside(self) -> None:
        try:
            self._repair_now()
        except DependencyDown as error:
            log.warning("ranges left behind wait: %s", error)
            self._repair = True

    def _publish_unpublished(self) -> None:
        """With connections of its own: the breaker's thread calls it too. Raises DependencyDown."""
        publisher = Publisher(self._settings.kafka_bootstrap, self._settings.publish_timeout_s)
        with closing(Ledger(self._settings.postgres_dsn, self._settings.topic)) as ledger:
            publish_unpublished(self._settings, ledger, publisher)

    def _pins(self) -> Pins:
        self._attempts += 1
        if not self.model_service.open:
            try:
                return pins(self._models, self._attempts)
            except DependencyDown as error:
                self.model_service.trip(error)
        return Pins(None)

    def _ask_for_a_score(self) -> None:
        with ModelClient(self._settings.serving_url, self._settings.model_timeout_s) as client:
            probe(client)

    def _learn(self, results: list[Taken], pinned: Pins, publish: bool) -> None:
        """What the ranges tell about the model service and about publishing."""
        silent = sum(result.unscored.get(UNSCORED_REASONS[MODEL_DOWN], 0) for result in results)
        failed = any(UNSCORED_REASONS[MODEL_FAILED] in result.unscored for result in results)
        if failed or any(result.outcomes.get("scored") for result in results):
            self._model_failed = failed
        if pinned.champion is not None and silent:
            self.model_service.trip(f"{silent} payments got no score")
        elif pinned.champion is not None and any(result.outcomes.get("scored") for result in results):
            self.model_service.proved()
        if any(not result.published for result in results):
            if publish:
                self.sinks.trip("a range was not acknowledged")
            else:
                self._repair = True  # decided as the breaker closed, it may have been too late for the probe
        elif publish:
            self.sinks.proved()

    # ---- beside the batches

    def amiss(self, unpublished: int, age_s: float) -> list[Condition]:
        """What keeps the stream from its whole work; `unpublished` ranges are not on Kafka, the oldest for `age_s`."""
        return list(
            amiss(
                waits_for=self.waits_for,
                model_down=self.model_service.open,
                model_failed=self._model_failed,
                sinks_down=self.sinks.open,
                unpublished=unpublished,
                age_s=age_s,
            )
        )

    def look_after(self, unpublished: int, age_s: float) -> None:
        """Publish ranges that were left behind look after look, and no batch that saw to them.

        A single look may find one that a backfill has in hand.
        """
        self._looks_behind = self._looks_behind + 1 if unpublished and age_s > UNPUBLISHED_S else 0
        if self._looks_behind >= LOOKS_BEHIND:
            self.sinks.trip(f"{unpublished} ranges are left behind")


def _of_a_worker(error: Exception) -> bool:
    """Whether Spark tells of a Python worker or an executor that died or raised, not of itself."""
    signs = ("Python worker exited", "Python worker failed", "Traceback (most", "ExecutorLostFailure")
    return any(sign in str(error) for sign in signs)
