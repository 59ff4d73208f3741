"""A rebuild folds the log as the road did: the same bytes, whatever the records were."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from feature_repo.errors import StateSourceMissing
from feature_repo.settings import Settings
from pipelines import log
from pipelines.state import bases, rebuild
from pipelines.state.bases import Bases
from pipelines.state.snapshots import Lineage
from streaming.placement import Placement
from tests.unit.test_road import World, payment, records

VALUES: list[bytes | None] = [
    *(payment(n, user=f"u{n % 3}", amount=10.0 + n) for n in range(40)),
    payment(7, user="u1"),  # a conflict
    payment(39, user="u0", amount=49.0),  # a repeat
    payment(50, user="u1", currency="EUR"),
    b"{",
    None,
    payment(51, user="u2", timestamp="2026-12-01T07:00:00Z"),  # late
]


class Decided(World):
    """All of VALUES decided in three ranges, and a ledger that a rebuild can ask."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.ledger.positions = lambda: dict(self.ledger.committed)  # type: ignore[attr-defined]
        for first in range(0, len(VALUES), 16):
            self.take(VALUES[first : first + 16], first=first)
        monkeypatch.setattr(rebuild._Work, "_restore_merchants", lambda *_: None)
        monkeypatch.setattr(Bases, "newest_decision", lambda *_: None)
        monkeypatch.setattr(Bases, "_placements", [Placement(1, "murmur2", {})])
        monkeypatch.setattr(Lineage, "of", lambda settings: Lineage(settings.topic, "id", 1, "murmur2", None))
        monkeypatch.setattr(bases.log, "kept", lambda settings: {0: (0, len(VALUES))})
        monkeypatch.setattr(log, "records", self.read)
        monkeypatch.setattr(rebuild.requests, "connected", connected)
        monkeypatch.setattr(rebuild.requests, "audit", lambda *_: None)

    def read(self, settings: Settings, partition: int, first: int, until: int) -> Iterator[Any]:
        for start in range(first, until, 11):
            some = records(VALUES[start : min(start + 11, until)], start)
            yield some.offsets, some.values, some.ingested

    def replace(self, partition: int, attempt: str, users: list[str], states: Any, folded_until: int) -> None:
        self.states.records.clear()
        self.states.save(partition, attempt, users, states, folded_until)

    def rebuilt(self) -> rebuild.Done:
        self.states.replace = self.replace  # type: ignore[attr-defined]
        self.states.mark_placement = lambda *_: None  # type: ignore[attr-defined]
        stores: Any = (self.states, self.ledger)
        return rebuild._Work(self.settings, *stores, lambda folded, total: None).run([0], None)


@contextmanager
def connected(settings: Settings) -> Iterator[Any]:
    class Nobody:
        def __enter__(self) -> "Nobody":
            return self

        def __exit__(self, *_: object) -> None: ...

        def cursor(self) -> "Nobody":
            return self

    yield Nobody()


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Decided:
    world = Decided(monkeypatch)
    world.settings = world.settings.model_copy(update={"home": tmp_path})
    return world


def test_lost_states_come_back_to_the_byte(decided: Decided) -> None:
    before = dict(decided.states.records)
    decided.states.records.clear()
    decided.states.folded.clear()
    done = decided.rebuilt()
    assert decided.states.records == before and len(before) == 3
    assert decided.states.folded == {0: len(VALUES)}
    assert (done.partitions[0].source, done.partitions[0].users) == ("the log", 3)


def test_states_ahead_of_the_ledger_are_taken_back_and_decided_again(decided: Decided) -> None:
    after = dict(decided.states.records)
    decided.ledger.committed[0] = 16
    decided.rebuilt()
    assert decided.states.folded == {0: 16} and decided.states.records != after
    taken = decided.take(VALUES[16:], first=16)
    assert sum(taken.outcomes.values()) == len(VALUES) - 16
    assert decided.states.records == after


def test_an_offset_that_was_buried_is_not_folded_though_it_parses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = Decided(monkeypatch)
    monkeypatch.setattr(world.ledger, "buried", lambda *_: [3])
    world.settings = world.settings.model_copy(update={"home": tmp_path})
    before = dict(world.states.records)
    world.rebuilt()
    changed = {user for user in before if before[user] != world.states.records[user]}
    assert changed == {"u0"}  # whose payment is number 3


def test_a_log_that_lost_its_beginning_is_refused_before_anything_is_touched(
    decided: Decided, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(decided.states.records)
    monkeypatch.setattr(bases.log, "kept", lambda settings: {0: (5, len(VALUES))})
    with pytest.raises(StateSourceMissing, match="the log begins at offset 5, 0 is needed"):
        decided.rebuilt()
    monkeypatch.setattr(bases.log, "kept", lambda settings: {0: (0, 9)})
    with pytest.raises(StateSourceMissing, match="the log ends at offset 9"):
        decided.rebuilt()
    assert decided.states.records == before
