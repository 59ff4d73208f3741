"""A user state made readable: the aggregates a person would look at, decoded from the record.

Windows end at the user's newest payment, and are whole tiles (features.py says which). Used where a state
is shown, never on the road: the kernel reads the record itself.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.features import RING_SIZE
from feature_repo.state import DAYS, States
from feature_repo.transaction import rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    INTEGER = "integer"
    NUMBER = "number"
    TIME = "time"  # microseconds since 1970, UTC


@dataclass(frozen=True)
class Aggregate:
    """One readable column; null where the user has nothing to aggregate."""

    name: str
    kind: Kind
    meaning: str


AGGREGATES: tuple[Aggregate, ...] = (
    Aggregate("payments", Kind.INTEGER, "payments since the last reset (30 days of silence)"),
    Aggregate("payments_24h", Kind.INTEGER, "payments in the newest hour and the 23 before it"),
    Aggregate("payments_7d", Kind.INTEGER, "payments in the newest day and the 6 before it"),
    Aggregate("payments_30d", Kind.INTEGER, "payments in the newest day and the 29 before it"),
    Aggregate("spend_24h", Kind.NUMBER, "sum of amounts over the same 24 hours"),
    Aggregate("mean_amount_7d", Kind.NUMBER, "mean amount over the same 7 days"),
    Aggregate("mean_amount_30d", Kind.NUMBER, "mean amount over the same 30 days"),
    Aggregate("largest_recent", Kind.NUMBER, "largest amount of the last 32 payments"),
    Aggregate("merchants_recent", Kind.INTEGER, "distinct merchants of the last 32 payments"),
    Aggregate("locations_recent", Kind.INTEGER, "distinct locations of the last 32 payments"),
    Aggregate("methods_recent", Kind.INTEGER, "distinct payment methods of the last 32 payments"),
    Aggregate("usual_hour", Kind.NUMBER, "circular mean of the hour of day, UTC, 0 to 24"),
    Aggregate("first_seen", Kind.TIME, "oldest event time since the last reset"),
    Aggregate("last_seen", Kind.TIME, "newest event time"),
    Aggregate("kafka_partition", Kind.INTEGER, "partition of the last payment folded in, -1 after a replay"),
    Aggregate("kafka_offset", Kind.INTEGER, "offset of the last payment folded in, -1 after a replay"),
)


def decode(states: States) -> dict[str, npt.NDArray[Any]]:
    """Aggregates of checked records, one column per name of AGGREGATES.

    Integers and times are int64, numbers float64; NaN is a number without a value.
    """
    rows = np.arange(len(states))[:, None]
    week = (states["day_head"][:, None] - np.arange(7)) % DAYS
    week_count = states["day_count"][rows, week].sum(axis=1, dtype=np.int64)
    week_sum = states["day_sum"][rows, week].sum(axis=1, dtype=np.float64)
    month_count = states["day_count"].sum(axis=1, dtype=np.int64)
    month_sum = states["day_sum"].sum(axis=1, dtype=np.float64)
    angle = np.arctan2(states["hour_sin"], states["hour_cos"]) % (2 * np.pi)
    return {
        "payments": states["count"].astype(np.int64),
        "payments_24h": states["hour_count"].sum(axis=1, dtype=np.int64),
        "payments_7d": week_count,
        "payments_30d": month_count,
        "spend_24h": states["hour_sum"].sum(axis=1, dtype=np.float64),
        "mean_amount_7d": _mean(week_sum, week_count),
        "mean_amount_30d": _mean(month_sum, month_count),
        "largest_recent": _mean(_recent(states, "ring_amount").max(axis=1), states["count"] > 0),
        "merchants_recent": _distinct(states, "ring_merchant"),
        "locations_recent": _distinct(states, "ring_place"),
        "methods_recent": _distinct(states, "ring_method"),
        "usual_hour": _mean(angle * 24 / (2 * np.pi), states["count"] > 0),
        "first_seen": states["first"].astype(np.int64),
        "last_seen": states["newest"].astype(np.int64),
        "kafka_partition": states["partition"].astype(np.int64),
        "kafka_offset": states["offset"].astype(np.int64),
    }


def readable(states: States) -> dict[str, float | int | str | None]:
    """The first record's aggregates as JSON values: times as RFC 3339, null for a number without a value."""
    columns = decode(states)
    values: dict[str, float | int | str | None] = {}
    for aggregate in AGGREGATES:
        value = columns[aggregate.name][0]
        match aggregate.kind:
            case Kind.INTEGER:
                values[aggregate.name] = int(value)
            case Kind.NUMBER:
                values[aggregate.name] = None if np.isnan(value) else float(value)
            case Kind.TIME:
                values[aggregate.name] = rfc3339(EPOCH + timedelta(microseconds=int(value)))
    return values


def _mean(total: npt.NDArray[Any], count: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """total / count, NaN where there is nothing to divide by."""
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _recent(states: States, field: str) -> npt.NDArray[Any]:
    """A ring's values [n, 32]; places not yet filled repeat the first, so they add nothing new."""
    ring = states[field]
    return np.where(np.arange(RING_SIZE) < states["count"][:, None], ring, ring[:, :1])


def _distinct(states: States, field: str) -> npt.NDArray[np.int64]:
    """How many different values a ring holds; 0 for a user without payments."""
    ordered = np.sort(_recent(states, field), axis=1)
    changes = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    return np.where(states["count"] > 0, changes + 1, 0)
