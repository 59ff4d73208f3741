"""Adds up counts of decisions."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from api.stats.repository import Offsets, StatsRepository, after
from api.stats.schemas import Age, Count, Hour, LiveStats, Stats, StatsRange, Stretch
from feature_repo.errors import DependencyDown

Key = TypeVar("Key")

SHOWN = timedelta(minutes=10)
STRETCH = timedelta(seconds=10)
LATELY = timedelta(minutes=1)
MEASURED = 10_000  # decisions that ages and reasons are counted of: a hundred lie beyond the 99th percentile
RANGES = 2_000  # of a partition: ten minutes of three commits a second
GOOD_FOR_S = 2.0  # how long an answer serves whoever else asks


class StatsService:
    def __init__(self, repository: StatsRepository, offsets: Offsets, topic: str, now: Callable[[], datetime]) -> None:
        self._repository = repository
        self._offsets = offsets
        self._topic = topic
        self._now = now
        self._lock = threading.Lock()
        self._live: tuple[float, LiveStats] | None = None

    def stats(self, asked: StatsRange) -> Stats:
        """Raises StoreUnavailable, also where the range holds more than can be counted in time."""
        since, until = asked.bounds(self._now())
        outcomes: Counter[str] = Counter()
        decisions: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        versions: Counter[tuple[str, bool]] = Counter()
        hours: Counter[tuple[datetime, bool]] = Counter()
        for row in self._repository.counts(since, until):
            n, flagged = row["decisions"], bool(row["is_anomaly"])
            outcomes[row["outcome"]] += n
            decisions[row["decision"]] += n
            hours[row["hour"], flagged] += n
            if row["model_version"] is not None:
                versions[row["model_version"], flagged] += n
            for reason in row["anomaly_reasons"] or []:
                reasons[reason] += n
        return Stats(
            since=since,
            until=until,
            total=Count(decisions=hours.total(), flagged=sum(n for (_, flagged), n in hours.items() if flagged)),
            by_outcome=dict(outcomes.most_common()),
            by_decision=dict(decisions.most_common()),
            by_model_version={
                version: Count(**_count(versions, version)) for version in sorted({version for version, _ in versions})
            },
            by_reason=dict(reasons.most_common()),
            by_hour=[Hour(hour=hour, **_count(hours, hour)) for hour in sorted({hour for hour, _ in hours})],
        )

    def live(self) -> LiveStats:
        """Blocks. One question at a time: who asks meanwhile gets its answer. Raises StoreUnavailable."""
        with self._lock:
            if self._live is None or time.monotonic() - self._live[0] > GOOD_FOR_S:
                self._live = time.monotonic(), self._look()
            return self._live[1]

    def _look(self) -> LiveStats:
        now = self._now()
        positions = self._repository.positions(self._topic)  # before Kafka's ends: what waits is never less than none
        ranges = sorted(self._repository.ranges(self._topic, RANGES), key=lambda row: row["committed_at"])
        lately = [row for row in ranges if row["committed_at"] > now - LATELY]
        firsts, measured = newest(lately, MEASURED)
        found = self._repository.decided(self._topic, firsts, now) if measured else {"age": None, "groups": None}
        return LiveStats(
            at=now,
            decided_at=ranges[-1]["committed_at"] if ranges else None,
            waiting=_or_none(lambda: after(self._offsets.ends(self._topic), positions)),
            unindexed=_or_none(self._offsets.unindexed),
            per_second=round(sum(row["records"] for row in lately) / LATELY.total_seconds(), 2),
            stretches=stretches(ranges, now),
            **_tally(found["groups"] or []),
            age=None if found["age"] is None else Age(**dict(zip(Age.model_fields, found["age"], strict=True))),
        )


def newest(ranges: Sequence[Mapping[str, Any]], limit: int) -> tuple[dict[int, int], int]:
    """The first offset by partition of the newest ranges that hold up to `limit` decisions, and how many they hold.

    `ranges` are oldest first; the newest one always counts.
    """
    firsts: dict[int, int] = {}
    total = 0
    for row in reversed(ranges):
        if total and total + row["decisions"] > limit:
            break
        total += row["decisions"]
        firsts[row["kafka_partition"]] = row["first_offset"]
    return firsts, total


def stretches(ranges: Sequence[Mapping[str, Any]], now: datetime) -> list[Stretch]:
    """Whole stretches up to `now`."""
    end = datetime.fromtimestamp(now.timestamp() // STRETCH.total_seconds() * STRETCH.total_seconds(), now.tzinfo)
    counts: Counter[int] = Counter()
    for row in ranges:
        counts[int((row["committed_at"] - end) // STRETCH)] += row["records"]
    return [Stretch(began_at=end + at * STRETCH, payments=counts[at]) for at in range(-(SHOWN // STRETCH), 0)]


def _tally(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Groups of equal decisions as the counts of LiveStats."""
    by: dict[str, Counter[str]] = {"decision": Counter(), "outcome": Counter(), "reason": Counter()}
    versions: Counter[tuple[str, bool]] = Counter()
    for row in groups:
        n, flagged = row["decisions"], bool(row["is_anomaly"])
        by["outcome"][row["outcome"]] += n
        if row["decision"] is not None:
            by["decision"][row["decision"]] += n
        if row["model_version"] is not None and row["outcome"] == "scored":
            versions[row["model_version"], flagged] += n
        for reason in row["anomaly_reasons"] or []:
            by["reason"][reason] += n
    return {
        "measured": by["outcome"].total(),
        "flagged": sum(n for (_, flagged), n in versions.items() if flagged),
        "by_model_version": {
            version: Count(**_count(versions, version)) for version in sorted({version for version, _ in versions})
        },
        **{f"by_{name}": dict(counts.most_common()) for name, counts in by.items()},
    }


def _or_none(ask: Callable[[], int]) -> int | None:
    try:
        return ask()
    except DependencyDown:
        return None


def _count(counts: Counter[tuple[Key, bool]], key: Key) -> dict[str, int]:
    return {"decisions": counts[key, True] + counts[key, False], "flagged": counts[key, True]}
