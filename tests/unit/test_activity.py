"""The readable aggregates of a state record say what the user's payments say."""

import math

import numpy as np
import pytest

from feature_repo import activity, state
from feature_repo.features import RING_SIZE
from feature_repo.state import DAY, HOUR
from tests.unit.oracle import MINUTE, MONTH_OF_SILENCE, Payment
from tests.unit.streams import Log, long_stream


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pace", [MINUTE, HOUR, 12 * HOUR])
def test_aggregates_are_those_of_the_payments_folded_in(seed: int, pace: int) -> None:
    payments = long_stream(seed, size=150, pace=pace)
    log = Log(payments)
    _, flags = log.fold()
    got = activity.decode(log.states)
    assert list(got) == [aggregate.name for aggregate in activity.AGGREGATES]
    for slot in np.unique(log.slots):
        mine = [p for p, s, f in zip(payments, log.slots, flags, strict=True) if s == slot and f <= 1]
        expected = aggregates(since_reset(mine)) | {
            "kafka_partition": 2,
            "kafka_offset": int(log.offsets[log.slots == slot][-1]),
        }
        for name, value in expected.items():
            assert math.isclose(got[name][slot], value, rel_tol=1e-5, abs_tol=1e-6), name


def test_a_user_without_payments_has_no_means() -> None:
    got = activity.decode(state.empty(np.array([7], np.uint64)))
    for name in ("mean_amount_7d", "mean_amount_30d", "largest_recent", "usual_hour"):
        assert np.isnan(got[name][0])
    assert got["payments"][0] == got["merchants_recent"][0] == 0


def since_reset(payments: list[Payment]) -> list[Payment]:
    life: list[Payment] = []
    for p in payments:
        if life and p.time - max(q.time for q in life) > MONTH_OF_SILENCE:
            life = []
        life.append(p)
    return life


def aggregates(life: list[Payment]) -> dict[str, float]:
    now, ring = max(p.time for p in life), life[-RING_SIZE:]
    day = [p.amount for p in life if now // HOUR - p.time // HOUR < 24]
    week = [p.amount for p in life if now // DAY - p.time // DAY < 7]
    month = [p.amount for p in life if now // DAY - p.time // DAY < 30]
    angles = [2 * math.pi * (p.time % DAY) / DAY for p in life]
    return {
        "payments": len(life),
        "payments_24h": len(day),
        "payments_7d": len(week),
        "payments_30d": len(month),
        "spend_24h": sum(day),
        "mean_amount_7d": sum(week) / len(week),
        "mean_amount_30d": sum(month) / len(month),
        "largest_recent": max(p.amount for p in ring),
        "merchants_recent": len({p.merchant for p in ring}),
        "locations_recent": len({p.place for p in ring}),
        "methods_recent": len({p.method for p in ring}),
        "usual_hour": math.atan2(sum(map(math.sin, angles)), sum(map(math.cos, angles))) / (2 * math.pi) * 24 % 24,
        "first_seen": min(p.time for p in life),
        "last_seen": now,
    }
