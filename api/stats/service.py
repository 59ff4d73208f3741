"""Adds up counts of decisions."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from api.stats.repository import StatsRepository
from api.stats.schemas import Count, Hour, Stats, StatsRange

Key = TypeVar("Key")


class StatsService:
    def __init__(self, repository: StatsRepository, now: Callable[[], datetime]) -> None:
        self._repository = repository
        self._now = now

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


def _count(counts: Counter[tuple[Key, bool]], key: Key) -> dict[str, int]:
    return {"decisions": counts[key, True] + counts[key, False], "flagged": counts[key, True]}
