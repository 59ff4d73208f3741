"""What a payment's features would be were it usual for its user: the other side of "what if?".

Most features compare a payment with its user and are 0 where the two agree. Counts are those of a usual day, the
amount is the mean of 30 days. What no user has a usual value of (how much is known of him, how large a merchant is)
takes the middle of the training's payments, where the model kept it.
"""

import math
from collections.abc import Callable, Mapping

from feature_repo.evidence import SMALLEST_RATIO, Row, daily_payments, past_payments
from feature_repo.features import CATALOGUE, SHRINK_K

DAY_S = 86_400.0
LONGEST_PAUSE_S = 30 * DAY_S  # a user silent for longer is a new one

AGREES = frozenset(
    {
        "amount_ratio_7d", "amount_ratio_30d", "amount_z", "amount_z_7d", "spend_24h",
        "count_10m", "count_1h", "rate_24h", "rate_7d", "hour_distance",
        "new_merchant", "new_location", "new_method", "new_device",
        "travel_speed", "small_run_1h", "jump_after_small", "merchant_repeats_24h",
        "merchant_risk_7d", "merchant_risk_30d",
    }
)  # fmt: skip


def usual(row: Row, middles: Mapping[str, float]) -> dict[str, float]:
    """Usual values by name for the features in `row` (all of the catalogue, today's meaning) that have one.

    `middles` are medians of the training's payments by feature. A feature without a usual value is left out.
    """
    own = dict.fromkeys(AGREES, 0.0) | {name: value for name, of in _OF_USER.items() if (value := of(row)) is not None}
    known = {**middles, **own}
    return {feature.name: known[feature.name] for feature in CATALOGUE if feature.name in known}


def _mean_amount(row: Row) -> float | None:
    """Of 30 days; None for a user without any."""
    month = min(past_payments(row), round(30 * daily_payments(row)))
    if not month:
        return None
    ratio = 2 * math.exp(row["amount_ratio_30d"] * (month + SHRINK_K) / month) - 1
    return math.expm1(row["amount_log"]) / ratio if ratio >= SMALLEST_RATIO else None


def _amount(row: Row) -> float | None:
    mean = _mean_amount(row)
    return None if mean is None else math.log1p(mean)


def _to_largest(row: Row) -> float | None:
    mean = _mean_amount(row)
    ratio = 2 * math.exp(row["amount_to_max"]) - 1
    if mean is None or ratio < SMALLEST_RATIO:
        return None
    largest = math.expm1(row["amount_log"]) / ratio
    return math.log((1 + mean / largest) / 2)


def _pause(row: Row) -> float:
    daily = daily_payments(row)
    return math.log1p(min(DAY_S / daily, LONGEST_PAUSE_S) if daily else LONGEST_PAUSE_S)


def _day(row: Row) -> float:
    return math.log1p(daily_payments(row))


_OF_USER: dict[str, Callable[[Row], float | None]] = {
    "amount_log": _amount,
    "amount_to_max": _to_largest,
    "count_24h": _day,
    "since_last": _pause,
    # As many as now, but no more than a usual day has payments, nor places than one.
    "merchants_24h": lambda row: min(row["merchants_24h"], _day(row)),
    "locations_24h": lambda row: min(row["locations_24h"], math.log1p(1)),
}
