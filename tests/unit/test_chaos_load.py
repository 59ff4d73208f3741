"""Every kind of record that the chaos run sends comes to what its checker expects, on the road in memory."""

import random
from collections import defaultdict
from typing import Any

from feature_repo.settings import Settings
from tests.chaos.checker import EXPECTED
from tests.chaos.load import SHARES, Load
from tests.chaos.needles import Needles
from tests.unit.road_fakes import offset_of, rows_of
from tests.unit.test_road import World

RECORDS = 3_000
SETTINGS = Settings(partitions=1, dead_letter_floor=RECORDS, kafka_bootstrap="127.0.0.1:1")


class Unsent(Load):
    """Keeps what it would send."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, rate=1.0, seed=7)
        self.kept: list[tuple[Any, bytes]] = []

    def _produce(self, producer: Any, value: str, key: Any, told: Any) -> None:
        (kind,) = told.args
        self.kept.append((kind, value.encode()))


def test_every_kind_of_record_comes_to_what_is_expected_of_it_and_leaves_no_card_number() -> None:
    load, chance, world = Unsent(), random.Random(7), World(SETTINGS)
    while len(load.kept) < RECORDS:
        load._send(chance.choices(list(SHARES), list(SHARES.values()))[0])
    world.take([value for _, value in load.kept])
    (copy,) = world.ledger.copies
    came_to = {offset_of(row): (row["outcome"] or b"").decode() for row in rows_of(copy)}
    came_to |= {offset_of(row): (row["code"] or b"").decode() for _, row in world.ledger.letters}
    assert len(came_to) == RECORDS
    by_kind = defaultdict(set)
    for offset, (kind, _) in enumerate(load.kept):
        by_kind[kind].add(came_to[offset])
    assert set(by_kind) == set(SHARES)
    assert all(found <= EXPECTED[kind] for kind, found in by_kind.items()), by_kind
    needles = Needles([])
    kept = [field for _, row in world.ledger.letters for field in row.values() if field]
    kept += [message["value"] for _, _, message in world.publisher.sent]
    assert any(needles.found(value) for _, value in load.kept)
    assert not any(needles.found(field) for field in kept)
