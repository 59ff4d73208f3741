"""User states made anew: on a snapshot or a history (bases.py), by folding the payments in the log since.

The log alone decides what states are, so they come to the very bytes that a stream without a mishap would hold. The
ledger says how far to go: states that were ahead of it (PostgreSQL came back from an older backup) are taken back, and
those payments decided again.
"""

import getpass
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from feature_repo.errors import AlreadyRunning, BadConfiguration, LedgerMoved, PlacementDiffers
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from pipelines import online, requests
from pipelines.replay import Users
from pipelines.state import snapshots
from pipelines.state.bases import Base, Bases
from pipelines.state.refold import refold
from streaming.ledger import Ledger
from streaming.lock import only_one
from streaming.placement import Stretch, placements
from streaming.states import StateStore

REBUILT = "rebuild_states"  # in the audit log

LAST_SIDE_INPUTS = """SELECT side_inputs FROM decisions
    WHERE id >= %s AND id < %s AND kafka_topic = %s AND side_inputs IS NOT NULL ORDER BY ingested_at DESC LIMIT 1"""

Progress = Callable[[int, int], None]  # offsets folded, offsets to fold in all


@dataclass(frozen=True)
class Rebuilt:
    """One partition: on what, which offsets of the log were read, and what came of it."""

    partition: int
    source: str
    start: int
    until: int
    payments: int
    users: int


@dataclass
class Done:
    """`passed_over` says why newer snapshots were not taken; `merchants` names the snapshot put back, if one was."""

    partitions: list[Rebuilt] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    merchants: str | None = None
    merchants_lost: str | None = None  # the one decisions name, found nowhere

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def rebuild(
    settings: Settings,
    partitions: list[int] | None = None,
    history: str | None = None,
    progress: Progress = lambda folded, total: None,
) -> Done:
    """Rebuild all states, or those of some partitions, up to where the ledger stands.

    `history` names the data set to begin from instead of a snapshot. Partition after partition: each is whole when the
    next is begun, and STATE_LOST while it is written. Raises AlreadyRunning while the stream of this home runs (one
    elsewhere takes the fence, and this raises Fenced), StateSourceMissing where payments are nowhere to be had,
    StateCorrupt, PlacementDiffers, BadConfiguration, DependencyDown.
    """
    if history is not None and partitions:
        raise BadConfiguration("--from-history replaces the states of all partitions: --partition does not go with it")
    beyond = [partition for partition in partitions or () if not 0 <= partition < settings.partitions]
    if beyond:
        raise BadConfiguration(f"--partition {beyond[0]}: there are partitions 0 to {settings.partitions - 1}")
    with (
        nobody_else(settings),
        closing(StateStore(settings.redis_url)) as store,
        closing(Ledger(settings.postgres_dsn, settings.topic)) as ledger,
        snapshots.alone(settings),
    ):
        with ledger.transaction() as cursor:
            newest = placements(cursor, settings)[-1]
        if newest.name != settings.placement:
            raise PlacementDiffers(settings.placement, newest.name)
        work = _Work(settings, store, ledger, progress)
        return work.run(partitions or list(range(settings.partitions)), history)


@contextmanager
def nobody_else(settings: Settings) -> Iterator[None]:
    """The stream's lock: the stream does not run, and does not start meanwhile."""
    try:
        with only_one(settings, "stream"):
            yield
    except AlreadyRunning as running:
        running.remedy = "stop the stream first: vigil down, then vigil up --only kafka,postgres,redis"
        raise


class _Work:
    """One rebuild."""

    def __init__(self, settings: Settings, store: StateStore, ledger: Ledger, progress: Progress) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._progress = progress
        self._attempt = str(uuid4())
        self._folded = self._total = 0

    def run(self, partitions: list[int], history: str | None) -> Done:
        positions = self._ledger.positions()
        committed = {partition: positions.get(partition, 0) for partition in partitions}
        look = Bases(self._settings, self._ledger, history)
        bases = {partition: look.of(partition, until) for partition, until in committed.items()}
        self._total = sum(committed[partition] - base.start for partition, base in bases.items())
        done = Done(passed_over=look.passed_over)
        for partition, base in bases.items():
            if self._ledger.claim(partition, self._attempt).committed != committed[partition]:
                raise LedgerMoved(self._settings.topic, partition)
            self._store.claim(partition, self._attempt, untouched=False)
            done.partitions.append(self._rebuild(partition, base, committed[partition]))
        if look.history is not None:
            starts = {partition: base.start for partition, base in bases.items()}
            online.note_seed(self._settings, look.history.name, starts)
        named = {look.newest_decision(LAST_SIDE_INPUTS, *position) for position in committed.items()}
        self._restore_merchants(done, named - {None})
        with requests.connected(self._settings) as connection, connection, connection.cursor() as cursor:
            requests.audit(cursor, getpass.getuser(), REBUILT, self._settings.topic, None, done.as_json())
        return done

    def _rebuild(self, partition: int, base: Base, until: int) -> Rebuilt:
        users = Users()
        for ids, states in base.load():
            slots = users.place(ids, states["user"])
            users.states[slots] = states
        since = Stretch(self._settings.partitions, partition, base.start, until)
        payments = refold(self._settings, self._ledger, users, since, lambda offset: self._tell(offset - base.start))
        self._folded += until - base.start
        ids, states = users.all()
        self._store.replace(partition, self._attempt, ids.to_pylist(), states, until)
        self._store.mark_placement([partition], self._settings.placement)
        return Rebuilt(partition, base.source, base.start, until, payments, len(ids))

    def _tell(self, offsets: int) -> None:
        self._progress(self._folded + offsets, self._total)

    def _restore_merchants(self, done: Done, named: set[str]) -> None:
        """Where Redis lost the merchants' snapshot as well, put back the one that decisions named last.

        The stream would go on as if none had ever been made otherwise. What Feast answers of merchants comes back with
        the next daily snapshot.
        """
        with closing(SnapshotStore(self._settings.redis_url)) as store:
            if store.current() is not None:
                return
            with self._ledger.transaction() as cursor:
                kept = online.snapshots_of(cursor, named)
            if kept:
                newest = max(kept.values(), key=lambda snapshot: snapshot.effective_at)
                store.publish(newest)
                done.merchants = newest.id
                return
        done.merchants_lost = min(named, default=None)
