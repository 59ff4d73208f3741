"""A record decoded says what the payments were, and no id of them."""

import json
from dataclasses import replace

import pytest

from feature_repo import kernel, state
from feature_repo.errors import StateCorrupt
from feature_repo.features import RING_SIZE
from feature_repo.keys import state_key, state_owner
from feature_repo.state import DAY, HOUR, LAYOUT, STATE_BYTES
from pipelines.state.show import Record, decoded
from tests.unit.oracle import Payment
from tests.unit.streams import FIRST, Log, long_stream


def record_of(payments: list[Payment]) -> Record:
    log = Log(payments)
    kernel.fold(log.states, log.slots, log.events, 2, log.offsets)
    state.seal(log.states)
    return decoded(payments[0].user, 2, log.states[0].tobytes())


def of_one_user(count: int, every: int) -> list[Payment]:
    shown = long_stream(3, size=count)
    return [
        replace(p, user="ada", id=f"secret {n}", time=FIRST // DAY * DAY + n * every, merchant=f"shop {n % 40}")
        for n, p in enumerate(shown)
    ]


def test_tiles_and_ring_are_the_payments_newest_first() -> None:
    payments = of_one_user(50, HOUR)
    record = record_of(payments)
    assert (record.layout, record.bytes, record.partition) == (LAYOUT, STATE_BYTES, 2)
    assert record.aggregates["payments"] == 50 and record.aggregates["kafka_offset"] == 100 + 3 * 49
    assert [count for _, count, _ in record.hours] == [1] * 24
    assert [count for _, count, _ in record.days] == [2, 24, 24]
    assert [entry["amount"] for entry in record.ring] == pytest.approx(
        [p.amount for p in payments[: -RING_SIZE - 1 : -1]], rel=1e-6
    )
    assert record.days[0][0] > record.days[1][0] and record.ring[0]["time"] > record.ring[1]["time"]


def test_known_merchants_are_counted_to_within_a_few() -> None:
    assert record_of(of_one_user(80, HOUR)).known["merchants"] == pytest.approx(40, abs=3)
    assert record_of(of_one_user(1, HOUR)).known["merchants"] == 1


def test_no_id_is_shown_and_the_whole_is_json() -> None:
    shown = json.dumps(record_of(of_one_user(40, HOUR)).as_json(), allow_nan=False)
    assert "secret" not in shown


def test_another_users_record_is_refused() -> None:
    log = Log(of_one_user(3, HOUR))
    log.fold()
    state.seal(log.states)
    with pytest.raises(StateCorrupt, match="owner"):
        decoded("bob", 2, log.states[0].tobytes())


@pytest.mark.parametrize("user", ["ada", "a}:s:b", "{3}", "ümit", "", "vigil:{1}:s:x"])
def test_a_key_names_its_owner_whatever_the_user_is_called(user: str) -> None:
    assert state_owner(state_key(user, 12)) == (12, user)
