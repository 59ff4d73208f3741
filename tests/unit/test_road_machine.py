"""The nine steps against stores in memory, through any sequence of deaths, lost answers and rival jobs.

After each, the stores are held against a run of the same log that nothing disturbed. That the machine would notice
is shown by mutants: stores and roads with one guard removed, each of which it must find.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from feature_repo.errors import DependencyDown, Fenced, LedgerMoved, StateBehind, VigilError
from feature_repo.settings import Settings
from streaming import steps
from streaming.decisions import Range
from streaming.partition import Road
from streaming.scoring import Pins
from tests.unit.road_fakes import PIN, FakeLedger, FakeStates, offset_of, rows_of
from tests.unit.test_road import World, payment, records

EXAMPLES = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)
# Bad records are no fault here: however many there are, the stream goes on.
SETTINGS = Settings(partitions=1, dead_letter_floor=10_000)
STEPS = ("parse", "claim", "load", "fold", "score", "shadow", "decide", "encode", "commit", "save", "publish")
POISON = "Nowhere"

payments = st.builds(
    payment,
    st.integers(0, 12),  # few, so that ids come again, the same or with other payloads
    user=st.sampled_from(["u1", "u2", "u3"]),
    amount=st.sampled_from([5.0, 20.0, 900.0]),
    location=st.sampled_from(["New York"] * 9 + [POISON]),
)
messages = st.one_of(payments, payments, payments, st.sampled_from([b"{", None, b"[]"]))


class Died(BaseException):
    """The process is gone: nothing after this point happened."""


@contextmanager
def at_step(step: str, happens: Callable[[], None]) -> Iterator[None]:
    """`happens` once, when the next road is through with `step`."""
    pending = [step]

    def after(name: str) -> None:
        if pending and name == pending[0]:
            pending.clear()
            happens()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_halt_after", after)
        yield


def die() -> None:
    raise Died


Decided = dict[int, tuple[bytes | None, ...]]


def decided(world: World) -> Decided:
    """What each offset came to, as far as it must not depend on how often anything died. Each offset only once."""
    found: Decided = {}
    for copy in filter(None, world.ledger.copies):
        for row in rows_of(copy):
            assert offset_of(row) not in found, "an offset was decided twice"
            found[offset_of(row)] = (row["outcome"], row["features"], row["late"], row["anomaly_score"])
    for _, row in world.ledger.letters:
        assert offset_of(row) not in found, "an offset was decided and buried"
        found[offset_of(row)] = (row["code"], row["detail"])
    return found


class Stream(RuleBasedStateMachine):
    """One partition, its log and two jobs that may both believe it is theirs."""

    ledger: Callable[..., FakeLedger] = FakeLedger
    states: Callable[..., FakeStates] = FakeStates
    road: type[Road] = Road

    @initialize()
    def begin(self) -> None:
        self.log: list[bytes | None] = []
        self.world = self._world(self.ledger, self.states, self.road)
        self.backup = deepcopy((self.world.states.records, self.world.states.folded))

    def _world(self, ledger: Callable[..., FakeLedger], states: Callable[..., FakeStates], road: type[Road]) -> World:
        world = World(SETTINGS)
        world.ledger, world.states = ledger(poison=frozenset({POISON.encode()})), states()
        world.road = self._job(world, road)
        return world

    def _job(self, world: World, road: type[Road] | None = None) -> Road:
        job = world.another()
        job.__class__ = road or self.road
        return job

    def _start(self) -> int:
        return min(self.world.ledger.committed.get(0, 0), self.world.states.folded.get(0, 0))

    def _take(self, job: Road, size: int, first: int | None = None) -> None:
        """The next `size` records from where a job starts, or from an earlier offset as after a lost checkpoint."""
        first = self._start() if first is None else first
        values = self.log[first : first + size]
        if values:
            job.take(records(values, first), Pins(PIN), frozenset(), None)

    @rule(more=st.lists(messages, min_size=1, max_size=8))
    def produce(self, more: list[bytes | None]) -> None:
        self.log += more

    @rule(size=st.integers(1, 12))
    def take(self, size: int) -> None:
        self._take(self.world.road, size)

    @rule(size=st.integers(1, 12), back=st.integers(1, 6))
    def take_from_an_old_checkpoint(self, size: int, back: int) -> None:
        self._take(self.world.road, size, max(0, self._start() - back))

    @rule(size=st.integers(1, 12), step=st.sampled_from(STEPS))
    def die_after(self, size: int, step: str) -> None:
        with at_step(step, die):
            try:
                self._take(self.world.road, size)
            except Died:
                self.world.road = self._job(self.world)

    @rule(size=st.integers(1, 12), applied=st.booleans(), store=st.sampled_from(["ledger", "states"]))
    def lose_the_answer(self, size: int, applied: bool, store: str) -> None:
        """The connection breaks around COMMIT, or around EXEC: it may have been carried out or not."""
        place, name = (self.world.ledger, "commit") if store == "ledger" else (self.world.states, "save")
        real = getattr(place, name)

        def broken(*args: Any) -> None:
            if applied:
                real(*args)
            raise DependencyDown(store, "memory", "connection cut")

        setattr(place, name, broken)
        try:
            with suppress(DependencyDown):
                self._take(self.world.road, size)
        finally:
            delattr(place, name)

    @rule(size=st.integers(1, 12), rivals=st.integers(1, 12), step=st.sampled_from(STEPS))
    def pause_while_a_rival_goes_on(self, size: int, rivals: int, step: str) -> None:
        """A task stands still after `step`; another job takes over; the first one wakes up."""
        left: list[int] = []

        def rival() -> None:
            self._take(self._job(self.world), rivals)
            left.append(self.world.states.folded.get(0, 0))

        with at_step(step, rival), suppress(LedgerMoved, Fenced):
            self._take(self.world.road, size)
        assert not left or self.world.states.folded.get(0, 0) >= left[0], "states were taken back"

    @rule()
    def back_up_redis(self) -> None:
        self.backup = deepcopy((self.world.states.records, self.world.states.folded))

    @rule()
    def restore_redis(self) -> None:
        self.world.states.records, self.world.states.folded = deepcopy(self.backup)
        self.world.states.folded.setdefault(0, 0)

    @rule(size=st.integers(1, 12))
    def go_on_after_redis_was_restored(self, size: int) -> None:
        """A running job goes on where it was, whatever became of the states meanwhile."""
        with suppress(StateBehind):
            self._take(self.world.road, size, self.world.ledger.committed.get(0, 0))

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        self._take(self._job(self.world), len(self.log))
        calm = self._world(FakeLedger, FakeStates, Road)
        if self.log:
            calm.take(self.log)
        assert decided(self.world) == decided(calm)
        assert sorted(decided(calm)) == list(range(len(self.log)))
        assert self.world.states.records == calm.states.records
        ranges = self.world.ledger.ranges
        assert [done.first for done in ranges] == [0, *(done.until for done in ranges[:-1])][: len(ranges)]


def test_no_sequence_of_faults_changes_what_is_decided() -> None:
    run_state_machine_as_test(Stream, settings=EXAMPLES)  # type: ignore[no-untyped-call]


# ---- mutants: one guard removed from each ---------------------------------------------------------------


class LedgerWithoutCompareAndSet(FakeLedger):
    def commit(self, done: Range, committed: int, decisions: bytes, dead_letters: bytes) -> None:
        self.attempts[done.partition] = done.attempt
        self.committed[done.partition] = committed
        super().commit(done, committed, decisions, dead_letters)


class StatesWithoutFence(FakeStates):
    def save(self, partition: int, attempt: str, *rest: Any) -> None:
        self.fences[partition] = attempt
        super().save(partition, attempt, *rest)


class RecordsWithoutOffset(FakeStates):
    """Records forget which offset they folded last."""

    def load(self, *args: Any) -> Any:
        states = super().load(*args)
        states["offset"] = -1
        return states


class RoadThatFoldsAgain(Road):
    """Folds what is below `folded_until` once more."""

    def _to_fold(self, partition: int, offsets: Any, folded_until: int, committed: int) -> Any:
        return np.ones(len(offsets), np.bool_)


class RoadThatFoldsWhatWasGivenUp(Road):
    def _to_fold(self, partition: int, offsets: Any, folded_until: int, committed: int) -> Any:
        return offsets >= folded_until


class RoadThatTrustsRestoredStates(Road):
    def _folded_until(self, *args: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._ledger, "decided", lambda *_: False)
            return super()._folded_until(*args)


class RoadThatSavesFirst(Road):
    """Steps 7 and 8 the other way round."""

    def take(self, *args: Any, **kwargs: Any) -> Any:
        ledger, waiting = self._ledger, []
        commit, save = ledger.commit, self._states.save

        def later(*commit_args: Any) -> None:
            waiting.append(commit_args)

        def save_then_commit(*save_args: Any) -> None:
            save(*save_args)
            for commit_args in waiting:
                commit(*commit_args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "commit", later)
            patch.setattr(self._states, "save", save_then_commit)
            return super().take(*args, **kwargs)


@pytest.mark.parametrize(
    "mutant",
    [
        {"ledger": LedgerWithoutCompareAndSet},
        {"states": StatesWithoutFence},
        {"states": RecordsWithoutOffset, "road": RoadThatFoldsAgain},
        {"road": RoadThatFoldsWhatWasGivenUp},
        {"road": RoadThatTrustsRestoredStates},
        {"road": RoadThatSavesFirst},
    ],
    ids=lambda mutant: "+".join(kind.__name__ for kind in mutant.values()),
)
def test_a_road_with_a_guard_removed_is_found_out(mutant: dict[str, Any]) -> None:
    broken = type("Mutant", (Stream,), mutant)
    generous = hypothesis_settings(
        EXAMPLES, max_examples=400, derandomize=True, database=None, report_multiple_bugs=False, phases=[Phase.generate]
    )
    with pytest.raises((AssertionError, VigilError)):
        run_state_machine_as_test(broken, settings=generous)  # type: ignore[no-untyped-call]
