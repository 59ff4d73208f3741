"""What the live page counts, from rows as the ledger has them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from api.stats.repository import after
from api.stats.service import MEASURED, StatsService, newest, stretches
from feature_repo.errors import DependencyDown

NOW = datetime(2026, 7, 15, 12, 0, 7, tzinfo=UTC)


def commit(seconds_ago: float, partition: int, first: int, decisions: int) -> dict[str, Any]:
    return {
        "kafka_partition": partition,
        "first_offset": first,
        "records": decisions + 1,
        "decisions": decisions,
        "committed_at": NOW - timedelta(seconds=seconds_ago),
    }


COMMITS = [commit(300, 0, 0, 10), commit(50, 1, 5, 20), commit(40, 0, 11, 30), commit(3, 0, 42, 40)]


def test_only_so_many_decisions_are_measured_and_those_are_the_newest() -> None:
    assert newest(COMMITS[1:], 1_000) == ({0: 11, 1: 5}, 90)
    assert newest(COMMITS[1:], 75) == ({0: 11}, 70)
    assert newest(COMMITS[1:], 1) == ({0: 42}, 40)  # the newest range counts, however large
    assert newest([], 1_000) == ({}, 0)


def test_stretches_are_whole_and_none_is_left_out() -> None:
    found = stretches(COMMITS, NOW)
    assert len(found) == 60
    assert {b.began_at - a.began_at for a, b in pairwise(found)} == {timedelta(seconds=10)}
    assert found[-1].began_at == datetime(2026, 7, 15, 11, 59, 50, tzinfo=UTC)
    counts = {one.began_at.strftime("%H:%M:%S"): one.payments for one in found if one.payments}
    assert counts == {"11:55:00": 11, "11:59:10": 21, "11:59:20": 31}  # the commit of 4 s ago is in no whole one yet


def test_what_waits_is_counted_from_what_kafka_still_keeps() -> None:
    assert after({0: (100, 150), 1: (0, 10), 2: (5, 5)}, {0: 20, 1: 7, 2: 5}) == 53
    assert after({0: (0, 10)}, {0: 12}) == 0  # decided after Kafka was asked


class Rows:
    """A repository over COMMITS."""

    asked = 0

    def positions(self, topic: str) -> dict[int, int]:
        self.asked += 1
        return {0: 90, 1: 25}

    def ranges(self, topic: str, limit: int) -> list[dict[str, Any]]:
        return COMMITS

    def decided(self, topic: str, firsts: Mapping[int, int], now: datetime) -> dict[str, Any]:
        assert dict(firsts) == {0: 11, 1: 5}
        group = {"outcome": "scored", "model_version": "3", "decisions": 80, "is_anomaly": False}
        return {
            "age": [0.5, 1.0, 2.0],
            "groups": [
                {**group, "decision": "approve", "anomaly_reasons": None},
                {**group, "decision": "review", "is_anomaly": True, "anomaly_reasons": ["a", "b"], "decisions": 6},
                {**group, "outcome": "unscored", "decision": "review", "anomaly_reasons": None, "model_version": None,
                 "is_anomaly": None, "decisions": 4},
            ],
        }  # fmt: skip


class Kafka:
    def __init__(self, down: bool) -> None:
        self.down = down

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        if self.down:
            raise DependencyDown("Kafka", "here", "switched off by the test")
        return {0: (0, 95), 1: (0, 25)}

    def unindexed(self) -> int:
        return self.ends("") and 7


def live(down: bool) -> tuple[StatsService, Rows]:
    rows = Rows()
    return StatsService(rows, Kafka(down), "transactions", lambda: NOW), rows  # type: ignore[arg-type]


def test_the_last_minute_is_counted_once_for_all_who_ask() -> None:
    service, rows = live(down=False)
    stats = service.live()
    assert (stats.decided_at, stats.waiting, stats.unindexed) == (COMMITS[-1]["committed_at"], 5, 7)
    assert stats.per_second == round((21 + 31 + 41) / 60, 2)
    assert (stats.measured, stats.flagged) == (90, 6)
    assert stats.by_decision == {"approve": 80, "review": 10} and stats.by_outcome == {"scored": 86, "unscored": 4}
    assert stats.by_reason == {"a": 6, "b": 6}
    assert stats.by_model_version["3"].model_dump() == {"decisions": 86, "flagged": 6}
    assert stats.age is not None and stats.age.p99 == 2.0
    assert service.live() is stats and rows.asked == 1
    assert MEASURED > 90


def test_what_kafka_does_not_tell_is_not_made_up() -> None:
    stats = live(down=True)[0].live()
    assert (stats.waiting, stats.unindexed, stats.measured) == (None, None, 90)
