"""What a partition's states are rebuilt on: a snapshot, the history they began from, a history somebody names, nothing.

Whatever it is, it must hold every payment the log no longer has, and none the ledger does not know yet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.errors import SnapshotCorrupt, StateSourceMissing
from feature_repo.hashing import partitions_of
from feature_repo.settings import Settings
from feature_repo.state import States
from pipelines import log
from pipelines.online import Seed
from pipelines.replay import Users
from pipelines.state import snapshots
from pipelines.state.histories import History
from pipelines.state.refold import refold
from pipelines.state.snapshots import Lineage
from streaming.decisions import row_id
from streaming.ledger import Ledger
from streaming.placement import Placement, Stretch, placements, stretches

LOOK_BACK = 100_000  # offsets among which the newest decision is looked for that answers a question
LAST_ARRIVAL = "SELECT max(ingested_at) FROM decisions WHERE id >= %s AND id < %s AND kafka_topic = %s"


@dataclass(frozen=True)
class Base:
    """States that hold all payments below offset `start`, read when they are needed."""

    source: str
    start: int
    load: Callable[[], Iterator[tuple[pa.Array, States]]]


class Bases:
    """Looks for them before anything is touched. `passed_over` collects why newer snapshots were not taken."""

    def __init__(self, settings: Settings, ledger: Ledger, history: str | None) -> None:
        self.history = None if history is None else History(settings, history)
        self.passed_over: list[str] = []
        self._settings = settings
        self._ledger = ledger
        self._kept = log.kept(settings)

    def of(self, partition: int, committed: int) -> Base:
        """Raises StateSourceMissing naming everything that was looked at, BadConfiguration, DependencyDown."""
        oldest, end = self._kept.get(partition, (0, 0))
        if end < committed:
            raise StateSourceMissing(partition, [f"the log ends at offset {end}, the ledger stands at {committed}"])
        needed = min(oldest, committed)  # with nothing to fold the log may begin where it likes
        if self.history is not None:
            return self._named(self.history, partition, committed, needed)
        why: list[str] = []
        for name in snapshots.names(self._settings):
            found = self._snapshot(name, partition, committed, oldest)
            if isinstance(found, Base):
                self.passed_over += [one for one in why if one not in self.passed_over]
                return found
            why.append(f"snapshot {name}: {found}")
        found = self._beginning(partition, committed, needed)
        if isinstance(found, Base):
            self.passed_over += [one for one in why if one not in self.passed_over]
            return found
        raise StateSourceMissing(partition, [*why, found])

    def _snapshot(self, name: str, partition: int, committed: int, oldest: int) -> Base | str:
        """The base it makes, or why none. Its bytes are checked."""
        try:
            snapshot = snapshots.Snapshot.read(snapshots.folder_of(self._settings) / name)
            reason = snapshots.unfit(snapshot, partition, self._lineage, committed, oldest)
            if reason is not None:
                return reason
            snapshots.verify(self._settings, snapshot, partition)
        except SnapshotCorrupt as error:
            return error.what
        start = snapshot.parts[partition].folded_until
        return Base(f"snapshot {name}", start, lambda: snapshots.load(self._settings, snapshot, partition))

    def _beginning(self, partition: int, committed: int, needed: int) -> Base | str:
        """Where the live states began: with a history that was replayed, or with the log."""
        seed = self._lineage.seed
        if self._grown_since(seed):
            return self._before_it_was_grown(partition, needed)
        start = 0 if seed is None else seed.positions.get(partition, 0)
        if start < needed:
            return f"the log begins at offset {needed}, {start} is needed"
        if seed is None:
            return Base("the log", 0, lambda: iter(()))
        if start > committed:
            return f"history {seed.data} took over at offset {start}, the ledger stands at {committed}"
        if not seed.stands(self._settings):
            return f"history {seed.data}, which the states began with, is not what it was"
        return Base(f"history {seed.data}", start, lambda: self._seeds_history.states(partition))

    # ---- payments from before the topic was grown, when users lay in other partitions

    def _grown_since(self, seed: Seed | None) -> bool:
        """Whether payments were decided, after the history that seeded the states, before the topic was grown."""
        return any(True for _ in self._earlier(seed))

    def _earlier(self, seed: Seed | None) -> Iterator[Stretch]:
        newest = self._placements[-1]
        return stretches(self._placements[:-1], {} if seed is None else seed.positions, newest.begins)

    def _before_it_was_grown(self, partition: int, needed: int) -> Base | str:
        """All of that folded where it lies, whatever partition it is in."""
        start, seed = self._placements[-1].begin(partition), self._lineage.seed
        for stretch in self._earlier(seed):
            oldest = self._kept.get(stretch.partition, (0, 0))[0]
            if stretch.first < oldest:
                earlier = f"of partition {stretch.partition}, before there were {self._settings.partitions},"
                return f"{earlier} the log begins at offset {oldest}, {stretch.first} is needed"
        if start < needed:
            return f"the log begins at offset {needed}, {start} is needed"
        if seed is not None and not seed.stands(self._settings):
            return f"history {seed.data}, which the states began with, is not what it was"
        source = "the log" if seed is None else f"history {seed.data} and the log"
        return Base(f"{source} before it was grown", start, lambda: self._states_then(partition))

    def _states_then(self, partition: int) -> Iterator[tuple[pa.Array, States]]:
        ids, states = self._then.all()
        here = partitions_of(ids, self._settings.partitions, murmur2=self._settings.murmur2) == partition
        yield ids.filter(pa.array(here)), states[here]

    @cached_property
    def _then(self) -> Users:
        seed = self._lineage.seed
        users = Users() if seed is None else self._seeds_history.users()
        for stretch in self._earlier(seed):
            refold(self._settings, self._ledger, users, stretch)
        return users

    @cached_property
    def _placements(self) -> list[Placement]:
        with self._ledger.transaction() as cursor:
            return placements(cursor, self._settings)

    def _named(self, history: History, partition: int, committed: int, needed: int) -> Base:
        """On a history somebody names. The log goes on after the last payment it has of the partition's users."""
        seed = self._lineage.seed
        grown = self._placements[-1].begin(partition)
        if seed is not None and seed.data == history.name and seed.stands(self._settings):
            start, gap = seed.positions.get(partition, 0), self._grown_since(seed)
        else:
            last = history.last_arrival(partition)
            start = log.first_after(self._settings, partition, last)
            gone = self.newest_decision(LAST_ARRIVAL, partition, needed)
            gap = start < grown or (gone is not None and round(gone.timestamp() * 1e6) > last)
        if start > committed:
            raise StateSourceMissing(partition, [f"history {history.name} goes on beyond the ledger ({committed})"])
        if gap or start < needed:
            begins = f"offset {max(needed, grown)} of this partition with these users"
            why = f"history {history.name} ends before the log begins, at {begins}, and payments came between"
            raise StateSourceMissing(partition, [why])
        return Base(f"history {history.name}", start, lambda: history.states(partition))

    def newest_decision(self, statement: str, partition: int, until: int) -> Any:
        """What a statement finds among the last decisions of a partition below an offset; None where nothing."""
        first, last = row_id(partition, np.array([max(0, until - LOOK_BACK), until]), 0).tolist()
        with self._ledger.transaction() as cursor:
            cursor.execute(statement, (first, last, self._settings.topic))
            row = cursor.fetchone()
        return row[0] if row else None

    @cached_property
    def _lineage(self) -> Lineage:
        return Lineage.of(self._settings)

    @cached_property
    def _seeds_history(self) -> History:
        seed = self._lineage.seed
        assert isinstance(seed, Seed)
        return History(self._settings, seed.data)
