"""More partitions for the payments topic: users move to other partitions, and their states with them.

1 claim every partition, so that no stream goes on; 2 remember in PostgreSQL that the topic is to be grown, and from
which offsets on; 3 add the partitions; 4 move each user's state to its new partition; 5 note that it is done. From 2 to
5 no stream starts and no state is read. Each step may be taken again: a growth that was cut short anywhere is finished
by asking for it once more. What was not decided yet stays where it is; the stream puts those whose users moved in
their place, as it does with any record that lies elsewhere.
"""

import getpass
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from psycopg2.extras import Json

from feature_repo.errors import BadConfiguration, StateAhead, StateLost
from feature_repo.hashing import partitions_of
from feature_repo.keys import GROWING
from feature_repo.settings import Settings
from infra.kafka import provision
from pipelines import log
from pipelines.requests import audit
from pipelines.state import snapshots
from pipelines.state.rebuild import nobody_else
from streaming.ledger import Ledger
from streaming.placement import PLACEMENTS, placements, require
from streaming.states import StateStore

GREW = "grow_topic"  # in the audit log

BEGIN = """
    INSERT INTO placements (kafka_topic, partitions, partitioner, begins) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
# A partition that holds states is no longer untouched: where Redis loses them, they are missed.
SEED = """
    UPDATE ledger SET committed_at = now()
    WHERE kafka_topic = %s AND kafka_partition < %s AND committed_at IS NULL
"""
FINISH = "UPDATE placements SET finished_at = now() WHERE kafka_topic = %s AND partitions = %s AND finished_at IS NULL"

Progress = Callable[[int], None]  # records looked at


@dataclass
class Grown:
    """`waiting` records were not decided yet; `snapshot` holds the states as they are placed now."""

    topic: str
    before: int
    partitions: int
    records: int = 0
    moved: int = 0
    waiting: int = 0
    snapshot: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check(settings: Settings, partitions: int) -> int:
    """How many partitions users are placed by now; fewer than `partitions` unless there is nothing to do.

    Raises BadConfiguration where the topic cannot be grown to so many, GrowthUnfinished, DependencyDown.
    """
    with closing(Ledger(settings.postgres_dsn, settings.topic)) as ledger:
        now, begun = _now(settings, ledger)
    if begun is not None and begun != partitions:
        raise BadConfiguration(
            f"{settings.topic} is being grown to {begun} partitions", remedy=f"vigil topic grow --partitions {begun}"
        )
    if partitions < now:
        raise BadConfiguration(f"{settings.topic} has {now} partitions: a topic does not shrink")
    in_kafka = len(log.kept(settings))
    if partitions < in_kafka:
        raise BadConfiguration(
            f"{settings.topic} has {in_kafka} partitions in Kafka", remedy=f"vigil topic grow --partitions {in_kafka}"
        )
    return now


def grow(settings: Settings, partitions: int, progress: Progress = lambda _: None) -> Grown:
    """Grow the payments topic to `partitions`, or finish a growth to so many.

    Settings afterwards have to say so. Raises AlreadyRunning while the stream of this home runs, Fenced where one
    elsewhere takes over, BadConfiguration, StateLost, StateAhead, DependencyDown.
    """
    with nobody_else(settings):
        done = Grown(settings.topic, check(settings, partitions), partitions)
        before, after = (settings.model_copy(update={"partitions": count}) for count in (done.before, partitions))
        with (
            closing(StateStore(settings.redis_url)) as store,
            closing(Ledger(settings.postgres_dsn, settings.topic)) as ledger,
        ):
            if done.before != partitions:
                with snapshots.alone(settings):
                    _Growth(before, after, store, ledger, done, progress).run()
            store.mark_placement(range(partitions), after.placement)
            if done.before != partitions and any(ledger.positions().values()):
                done.snapshot = snapshots.take(after).name  # earlier ones are of another placement
        return done


def _now(settings: Settings, ledger: Ledger) -> tuple[int, int | None]:
    """Partitions that users are placed by, and those a growth that was begun leads to."""
    with ledger.transaction() as cursor:
        cursor.execute(PLACEMENTS, (settings.topic,))
        begun = [count for count, _, _, finished in cursor.fetchall() if not finished]
        return placements(cursor, settings)[-1].partitions, begun[0] if begun else None


class _Growth:
    """One growth, from the settings before to those after."""

    def __init__(
        self, before: Settings, after: Settings, store: StateStore, ledger: Ledger, done: Grown, progress: Progress
    ) -> None:
        self._before = before
        self._after = after
        self._store = store
        self._ledger = ledger
        self._done = done
        self._progress = progress
        self._attempt = str(uuid4())

    def run(self) -> None:
        begins = self._claim()
        if _now(self._before, self._ledger)[1] is None:
            require(self._before, self._ledger)
            self._drop_strays()
            with self._ledger.transaction() as cursor:
                after = (self._after.topic, self._after.partitions, self._after.partitioner, Json(begins))
                cursor.execute(BEGIN, after)
        self._store.mark_placement(range(self._after.partitions), f"{self._after.partitions} {GROWING}")
        provision.grow(self._after)
        self._move()
        with self._ledger.transaction() as cursor:
            cursor.execute(SEED, (self._after.topic, self._after.partitions))
            cursor.execute(FINISH, (self._after.topic, self._after.partitions))
            audit(cursor, getpass.getuser(), GREW, self._after.topic, None, self._done.as_json() | {"begins": begins})

    def _claim(self) -> dict[int, int]:
        """The ledger's positions, each partition ours and its states no less and no further on."""
        begins: dict[int, int] = {}
        known = self._ledger.positions()
        for partition in sorted({*known, *range(self._after.partitions)}):
            committed, untouched = self._ledger.claim(partition, self._attempt)
            folded = self._store.claim(partition, self._attempt, untouched=untouched)
            if folded is None:
                raise StateLost(partition, committed)
            if folded > committed:
                raise StateAhead(partition, folded, committed)
            if folded < committed:
                raise BadConfiguration(
                    f"partition {partition}: payments are decided up to offset {committed}, states only up to {folded}",
                    remedy="vigil stream --until-caught-up, and then again",
                )
            begins[partition] = committed
        self._done.waiting = sum(span.after(begins.get(number, 0)) for number, span in log.kept(self._before).items())
        return begins

    def _drop_strays(self) -> None:
        """Delete records outside their user's partition: left by something that is over, and nobody reads them."""
        for partition, users, _ in self._store.records():
            belongs = self._partitions(users, self._before)
            strays = [user for user, place in zip(users, belongs, strict=True) if place != partition]
            if strays:
                self._store.drop(partition, self._attempt, strays)

    def _move(self) -> None:
        for source, users, values in self._store.records():
            belongs = self._partitions(users, self._after)
            self._done.records += len(users)
            for target in set(belongs) - {source}:
                rows = np.flatnonzero(np.array(belongs) == target).tolist()
                some = [users[row] for row in rows]
                self._store.move(source, target, self._attempt, some, [values[row] for row in rows])
                self._done.moved += len(rows)
            self._progress(self._done.records)

    def _partitions(self, users: list[str], settings: Settings) -> list[int]:
        ids = pa.array(users, pa.string())
        return partitions_of(ids, settings.partitions, murmur2=settings.murmur2).tolist()
