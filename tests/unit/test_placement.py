"""Where users' payments lay before the topic was grown, and records in partitions that nobody's payments lie in."""

from dataclasses import replace

import pyarrow as pa
import pytest

from feature_repo.errors import GrowthUnfinished, PlacementDiffers
from feature_repo.hashing import partitions_of
from feature_repo.keys import check_placement
from streaming.placement import Placement, Stretch, stretches
from streaming.scoring import Pins
from tests.unit.road_fakes import PIN
from tests.unit.test_road import SETTINGS, World, payment, records

GROWN = [Placement(2, "murmur2", {}), Placement(3, "murmur2", {0: 10, 1: 20, 2: 5})]
MISPLACED = next(user for user in (f"u{n}" for n in range(99)) if partitions_of(pa.array([user]), 2)[0] == 1)


def test_the_log_is_read_in_the_order_of_placements() -> None:
    found = list(stretches(GROWN, {}, {0: 15, 1: 20, 2: 30}))
    assert found == [Stretch(2, 0, 0, 10), Stretch(2, 1, 0, 20), Stretch(3, 0, 10, 15), Stretch(3, 2, 5, 30)]


def test_a_history_that_replaced_the_states_stands_for_all_before_it() -> None:
    ends = {0: 15, 1: 25, 2: 30}
    assert next(stretches(GROWN, {0: 4, 1: 20}, ends)) == Stretch(2, 0, 4, 10)
    assert [one.partitions for one in stretches(GROWN, {0: 12, 1: 20, 2: 6}, ends)] == [3, 3, 3]


def test_states_placed_otherwise_are_not_read() -> None:
    check_placement(None, "4 murmur2")
    check_placement(b"4 murmur2", "4 murmur2")
    with pytest.raises(PlacementDiffers) as differs:
        check_placement(b"4 murmur2", "2 murmur2")
    assert "VIGIL_PARTITIONS=4" in differs.value.remedy
    with pytest.raises(GrowthUnfinished, match="8 partitions"):
        check_placement(b"8 growing", "4 murmur2")


def test_what_comes_in_a_partition_added_by_hand_is_put_in_its_users_and_nothing_is_folded() -> None:
    world = World(SETTINGS.model_copy(update={"partitions": 2}))
    some = replace(records([payment(1, user=MISPLACED), payment(2, user="u0"), b"{"]), partition=5)
    taken = world.road.take(some, Pins(PIN), frozenset(), None)
    assert taken.outcomes == {"REKEYED": 2, "NOT_JSON": 1} and not world.states.records
    partition, _, _, headers = world.publisher.again[0]
    assert (partition, headers) == (1, {"vigil-origin": "transactions-5-0", "vigil-placed": "2"})
    assert {(topic, partition) for topic, partition, _ in world.publisher.sent} == {("transactions.dlq", 1)}
