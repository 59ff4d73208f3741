"""User states made anew: on a snapshot or a history (bases.py), by folding the payments in the log since.

The log alone decides what states are, so they come to the very bytes that a stream without a mishap would hold. What
the stream looked merchants up in plays no part: features use it, states do not. The ledger says how far to go: states
that were ahead of it (PostgreSQL came back from an older backup) are taken back, and those payments decided again.
"""

import getpass
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo import kernel
from feature_repo.errors import AlreadyRunning, BadConfiguration, LedgerMoved
from feature_repo.hashing import events_of, partitions_of
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from feature_repo.snapshot_store import SnapshotStore
from pipelines import log, online, requests
from pipelines.replay import Users, in_our_currency
from pipelines.state import snapshots
from pipelines.state.bases import Base, Bases
from streaming.ledger import Ledger
from streaming.lock import only_one
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
    StateCorrupt, BadConfiguration, DependencyDown.
    """
    if history is not None and partitions:
        raise BadConfiguration("--from-history replaces the states of all partitions: --partition does not go with it")
    beyond = [partition for partition in partitions or () if not 0 <= partition < settings.partitions]
    if beyond:
        raise BadConfiguration(f"--partition {beyond[0]}: there are partitions 0 to {settings.partitions - 1}")
    with (
        _nobody_else(settings),
        closing(StateStore(settings.redis_url)) as store,
        closing(Ledger(settings.postgres_dsn, settings.topic)) as ledger,
        snapshots.alone(settings),
    ):
        work = _Work(settings, store, ledger, progress)
        return work.run(partitions or list(range(settings.partitions)), history)


@contextmanager
def _nobody_else(settings: Settings) -> Iterator[None]:
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
            if self._ledger.claim(partition, self._attempt) != committed[partition]:
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
        payments = 0
        for offsets, values, ingested in log.records(self._settings, partition, base.start, until):
            payments += self._fold(users, partition, offsets, values, ingested)
            self._progress(self._folded + int(offsets[-1]) + 1 - base.start, self._total)
        self._folded += until - base.start
        ids, states = users.all()
        self._store.replace(partition, self._attempt, ids.to_pylist(), states, until)
        return Rebuilt(partition, base.source, base.start, until, payments, len(ids))

    def _fold(
        self,
        users: Users,
        partition: int,
        offsets: npt.NDArray[np.int64],
        values: pa.Array,
        ingested: npt.NDArray[np.int64],
    ) -> int:
        """Fold the payments among some records as the road does; how many there were."""
        payable = ~np.isin(offsets, self._ledger.buried(partition, int(offsets[0]), int(offsets[-1]) + 1))
        offsets, values, ingested = offsets[payable], values.filter(pa.array(payable)), ingested[payable]
        parsed = parse(values, ingested, ParseOptions.of(self._settings))
        ids = parsed.payments.column("user_id")
        belongs = partitions_of(ids, self._settings.partitions, murmur2=self._settings.murmur2)
        mine = pc.and_(pa.array(belongs == partition), in_our_currency(parsed.payments, self._settings.currency))
        payments, rows = parsed.payments.filter(mine), parsed.rows[mine.to_numpy(zero_copy_only=False)]
        events = events_of(payments, no_snapshot)
        slots = users.place(payments.column("user_id"), events.user)
        kernel.fold(users.states, slots, events, partition, offsets[rows])
        return len(rows)

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
