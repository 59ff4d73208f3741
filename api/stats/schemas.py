"""Decisions counted."""

from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from api.filters import BEGINNING, END, Range
from api.transactions.schemas import UtcTime

LONGEST = timedelta(days=7)
USUAL = timedelta(hours=24)


class StatsRange(Range):
    """From..to of 7 days at most; the last 24 hours, or those before or behind the one bound given."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.since is not None and self.until is not None and self.until - self.since > LONGEST:
            raise PydanticCustomError("RANGE_LENGTH", "longer than 7 days")
        return self

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        if self.since is None:
            until = self.until or now
            return max(until, BEGINNING + USUAL) - USUAL, until
        return self.since, self.until or min(self.since, END - USUAL) + USUAL


class Count(BaseModel):
    decisions: int
    flagged: int = Field(description="anomalies")


class Hour(Count):
    hour: UtcTime = Field(description="its beginning")


class Stats(BaseModel):
    """Repetitions are not counted, and of a decision the newest revision is."""

    since: UtcTime
    until: UtcTime
    total: Count
    by_outcome: dict[str, int] = Field(examples=[{"scored": 86_112, "unscored": 3}])
    by_decision: dict[str, int] = Field(examples=[{"approve": 85_640, "review": 475}])
    by_model_version: dict[str, Count] = Field(description="of the scored")
    by_reason: dict[str, int] = Field(description="a payment counts under each of its reasons")
    by_hour: list[Hour] = Field(description="of event time, earliest first; hours without a payment are left out")


class Age(BaseModel):
    """Seconds from a payment's arrival at the broker to the commit of its decision."""

    p50: float
    p95: float
    p99: float


class Stretch(BaseModel):
    """Payments decided in ten seconds."""

    began_at: UtcTime
    payments: int


class LiveStats(BaseModel):
    """What the stream does now: counts by the moment of the commit, not by event time."""

    at: UtcTime = Field(description="when this was asked")
    decided_at: UtcTime | None = Field(description="the newest commit; null before the first one")
    waiting: int | None = Field(description="payments on the topic without an outcome; null where Kafka does not tell")
    unindexed: int | None = Field(description="decisions that search does not have yet; null where Kafka does not tell")
    per_second: float = Field(description="payments decided, over the last minute")
    stretches: list[Stretch] = Field(description="of the last ten minutes, earliest first, those without any included")
    measured: int = Field(
        description="decisions that all that follows is of: the last minute's, the newest 10,000 of them or so at most"
    )
    age: Age | None = Field(description="null where none was decided in the last minute")
    flagged: int
    by_decision: dict[str, int]
    by_outcome: dict[str, int]
    by_reason: dict[str, int] = Field(description="a payment counts under each of its reasons")
    by_model_version: dict[str, Count]
