"""What a reason rests on, in words and units a person reads: a payment's value beside the user's usual one.

Features are logarithms, some drawn towards ordinary (features.py). Each is undone here as the kernel made it;
what a row of features does not determine is left out rather than guessed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from feature_repo.features import AIRLINER_KM_PER_HOUR, RING_SIZE, SHRINK_K, Reason

DIGITS = 5
SMALLEST_RATIO = 1e-3  # of an amount to a usual one; under it the float32 no longer tells how small


@dataclass(frozen=True)
class Evidence:
    """One measure behind a reason. `usual` is None where the features hold nothing to compare with.

    `direction` is above, below or new: how the payment differs from what is usual.
    """

    reason: str
    measure: str
    value: float
    usual: float | None
    unit: str
    direction: str

    def as_json(self) -> dict[str, Any]:
        """Numbers to DIGITS significant digits, about what a feature in float32 determines."""
        usual = None if self.usual is None else float(f"{self.usual:.{DIGITS}g}")
        return {**asdict(self), "value": float(f"{self.value:.{DIGITS}g}"), "usual": usual}


Row = Mapping[str, float]  # features by name, as the kernel has them


def evidence(reasons: list[str], row: Row) -> list[Evidence]:
    """The evidence for each of `reasons`, in their order; none for a reason whose features show nothing.

    `row` holds the features of one payment in today's meaning. Raises KeyError naming one that is missing.
    """
    return [found for reason in reasons for found in _MEASURES[Reason(reason)](Reason(reason), row)]


def _amount(reason: Reason, row: Row) -> list[Evidence]:
    amount, past = math.expm1(row["amount_log"]), past_payments(row)
    month = min(past, round(30 * daily_payments(row)))  # a user known for less than 30 days paid all of it in them
    above = {"the mean of 30 days": row["amount_ratio_30d"] * (month + SHRINK_K) / month} if month else {}
    above |= {f"the largest of the last {RING_SIZE}": row["amount_to_max"]} if past else {}
    ratios = {usual: 2 * math.exp(value) - 1 for usual, value in above.items()}
    usual = {name: amount / ratio for name, ratio in ratios.items() if ratio >= SMALLEST_RATIO}
    found = [_against(reason, f"amount against {name}", amount, value, "currency") for name, value in usual.items()]
    if "the mean of 30 days" in usual:
        day = usual["the mean of 30 days"] * daily_payments(row)
        spent = day * max(0.0, 2 * math.exp(row["spend_24h"]) - 1)
        found.append(_against(reason, "spent in the 24 hours before", spent, day, "currency"))
    return found


def _burst(reason: Reason, row: Row) -> list[Evidence]:
    count = _count(row["count_24h"])
    return [_against(reason, "payments in the 24 hours before", count, daily_payments(row), "payments")]


def _hour(reason: Reason, row: Row) -> list[Evidence]:
    past = past_payments(row)
    if not past:
        return []
    distance = row["hour_distance"] * (past + SHRINK_K) / past
    return [Evidence(reason, "distance from usual hours", distance, None, "0 the same to 2 opposite", "above")]


def _new(feature: str, where: str, within_day: str = "") -> Callable[[Reason, Row], list[Evidence]]:
    """Never seen before, or else how many different ones a day held, where a feature counts them."""

    def measured(reason: Reason, row: Row) -> list[Evidence]:
        if row[feature] > 0:
            return [Evidence(reason, f"earlier payments, none {where}", past_payments(row), None, "payments", "new")]
        count = _count(row[within_day]) if within_day else 0.0
        measure = f"{within_day.removesuffix('_24h')} in the 24 hours before, of the last {RING_SIZE} payments"
        return [Evidence(reason, measure, count, None, "different ones", "above")] if count else []

    return measured


def _travel(reason: Reason, row: Row) -> list[Evidence]:
    speed = math.expm1(row["travel_speed"]) * AIRLINER_KM_PER_HOUR
    return [Evidence(reason, "speed from the last place", speed, None, "km/h", "above")] if speed > 0 else []


def _merchant(reason: Reason, row: Row) -> list[Evidence]:
    """Usual are all merchants together, beyond whose rate the risk is counted."""
    risk = {days: row[f"merchant_risk_{days}d"] * 100 for days in (7, 30)}
    return [
        _against(reason, f"reported frauds of {days} days beyond all merchants'", value, 0.0, "% of payments, shrunk")
        for days, value in risk.items()
        if value
    ]


def _testing(reason: Reason, row: Row) -> list[Evidence]:
    counts = {"small payments in the hour before": "small_run_1h"}
    counts["payments at this merchant in the 24 hours before"] = "merchant_repeats_24h"
    measured = {measure: _count(row[name]) for measure, name in counts.items()}
    return [Evidence(reason, measure, n, None, "payments", "above") for measure, n in measured.items() if n]


def _sparse(reason: Reason, row: Row) -> list[Evidence]:
    return [Evidence(reason, "earlier payments of the user", past_payments(row), None, "payments", "below")]


def _method(reason: Reason, row: Row) -> list[Evidence]:
    return _new("new_method", "by this method")(reason, row) + _new("new_device", "from this device")(reason, row)


_MEASURES: dict[Reason, Callable[[Reason, Row], list[Evidence]]] = {
    Reason.UNUSUAL_AMOUNT: _amount,
    Reason.BURST: _burst,
    Reason.UNUSUAL_HOUR: _hour,
    Reason.NEW_MERCHANT: _new("new_merchant", "at this merchant", "merchants_24h"),
    Reason.NEW_LOCATION: _new("new_location", "in this place", "locations_24h"),
    Reason.IMPOSSIBLE_TRAVEL: _travel,
    Reason.RISKY_MERCHANT: _merchant,
    Reason.CARD_TESTING: _testing,
    Reason.NEW_PAYMENT_METHOD: _method,
    Reason.SPARSE_USER: _sparse,
}


def _against(reason: Reason, measure: str, value: float, usual: float, unit: str) -> Evidence:
    return Evidence(reason, measure, value, usual, unit, "above" if value >= usual else "below")


def _count(logarithm: float) -> float:
    return float(round(math.expm1(logarithm)))


def past_payments(row: Row) -> float:
    return _count(row["history"])


def daily_payments(row: Row) -> float:
    """Payments of the user's usual day, at or above 0."""
    return max(0.0, (1 + _count(row["count_24h"])) / math.exp(row["rate_24h"]) - 1)
