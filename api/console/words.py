"""Codes, numbers and times as a person reads them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

from feature_repo.features import Reason

REASONS: dict[str, str] = {
    Reason.UNUSUAL_AMOUNT: "Unusual amount for this user",
    Reason.BURST: "Burst of payments",
    Reason.UNUSUAL_HOUR: "Unusual hour for this user",
    Reason.NEW_MERCHANT: "New merchant for this user",
    Reason.NEW_LOCATION: "New place for this user",
    Reason.IMPOSSIBLE_TRAVEL: "Travel faster than possible",
    Reason.RISKY_MERCHANT: "Merchant with reported frauds",
    Reason.CARD_TESTING: "Pattern of card testing",
    Reason.NEW_PAYMENT_METHOD: "New payment method for this user",
    Reason.SPARSE_USER: "User with little history",
}
FEATURES: dict[str, str] = {
    "amount_log": "Amount",
    "amount_ratio_7d": "Amount against the mean of 7 days",
    "amount_ratio_30d": "Amount against the mean of 30 days",
    "amount_z": "Amount against all the user's amounts",
    "amount_to_max": "Amount against the largest of late",
    "count_10m": "Payments in the 10 minutes before",
    "count_1h": "Payments in the hour before",
    "count_24h": "Payments in the 24 hours before",
    "rate_24h": "Pace of 24 hours against usual days",
    "spend_24h": "Spent in 24 hours against usual days",
    "since_last": "Time since the payment before",
    "hour_distance": "Distance from usual hours",
    "new_merchant": "First payment at the merchant",
    "merchants_24h": "Merchants in the 24 hours before",
    "new_location": "First payment in the place",
    "locations_24h": "Places in the 24 hours before",
    "travel_speed": "Speed from the place before",
    "new_method": "First payment by the method",
    "new_device": "First payment from the device",
    "small_run_1h": "Small payments in the hour before",
    "jump_after_small": "Large amount after small ones",
    "history": "Payments known of the user",
    "amount_z_7d": "Amount against those of late",
    "rate_7d": "Pace of 7 days against usual weeks",
    "merchant_repeats_24h": "Payments at the merchant in 24 hours",
    "merchant_volume_30d": "Size of the merchant",
    "merchant_risk_7d": "Frauds at the merchant, 7 days",
    "merchant_risk_30d": "Frauds at the merchant, 30 days",
}
# What the feature store knows of a user, in this order; the rest is of no use to a reader.
ACTIVITY = {
    "payments": "Payments known",
    "payments_24h": "Payments, 24 hours",
    "payments_7d": "Payments, 7 days",
    "payments_30d": "Payments, 30 days",
    "spend_24h": "Spent, 24 hours",
    "mean_amount_7d": "Mean amount, 7 days",
    "mean_amount_30d": "Mean amount, 30 days",
    "largest_recent": "Largest of late",
    "merchants_recent": "Merchants of late",
    "locations_recent": "Places of late",
    "methods_recent": "Payment methods of late",
    "usual_hour": "Usual hour (UTC)",
    "first_seen": "First payment",
    "last_seen": "Newest payment",
}
DECISIONS = {"approve": "Approved", "review": "To review", "reject": "Rejected"}
UNSCORED = "No score"
SORTS = {
    "-event_time": "Newest first",
    "event_time": "Oldest first",
    "-amount": "Largest amount first",
    "amount": "Smallest amount first",
    "-anomaly_score": "Highest score first",
    "anomaly_score": "Lowest score first",
}
OUTCOMES = {"moved": "Done", "unchanged": "Nothing to change", "refused": "Refused", "failed": "Failed"}
ACTIONS = {
    "promote": "Promotion", "rollback": "Rollback", "threshold": "New threshold", "challenger": "Version on trial",
}  # fmt: skip
STATES = {"waiting": "waiting for the lifecycle worker", "working": "being judged", "finished": "finished"}


def reason(code: str, found: Iterable[Mapping[str, Any]] = ()) -> str:
    """`found` is the evidence behind it: both more and less than usual is an anomaly, and only the first is a burst."""
    directions = {one["direction"] for one in found}
    if code == Reason.BURST and directions == {"below"}:
        return "Unusual pace of payments"
    return REASONS.get(code, code.replace("_", " ").capitalize())


def feature(name: str) -> str:
    return FEATURES.get(name, name.replace("_", " ").capitalize())


def money(amount: float, currency: str) -> str:
    return f"{currency} {amount:,.2f}"


def number(value: float) -> str:
    """To three digits or so, without an exponent: 1.60, 24.5, 0.012."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size < 0.0005:
        return "0"
    return f"{value:,.1f}" if size >= 10 else f"{value:,.2f}" if size >= 0.1 else f"{value:.3f}"


def share(part: float, whole: float) -> str:
    if not whole:
        return "-"
    value = 100 * part / whole
    if 0 < value < 0.01:
        return "< 0.01 %"
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %" if value >= 1 else f"{value:.2f} %"


def times(value: float, usual: float) -> str:
    """How a value stands to the usual one."""
    if usual <= 0:
        return "beside"
    ratio = value / usual
    if ratio >= 1.95:
        return f"{number(round(ratio, 1))} times"
    if ratio >= 1.05:
        return f"{round(100 * (ratio - 1))} % more than"
    if ratio > 0.95:
        return "about"
    return f"{round(100 * ratio)} % of"


def evidence(found: Mapping[str, Any], currency: str) -> str:
    """One measure behind a reason (`Evidence` of the service) as a sentence with its numbers."""
    measure, value, usual = found["measure"], found["value"], found["usual"]
    n = number(value)
    against = measure.removeprefix("amount against ")
    if against != measure and usual is not None:
        return f"{money(value, currency)} is {times(value, usual)} {_of_user(against)} ({money(usual, currency)})."
    match measure:
        case "spent in the 24 hours before":
            return f"{money(value, currency)} spent in the 24 hours before; a usual day: {money(usual, currency)}."
        case "payments in the 24 hours before":
            return f"{_payments(value)} in the 24 hours before; a usual day has {number(usual)}."
        case "distance from usual hours":
            return f"Far from the user's usual hours: {n}, where 0 is the usual time of day and 2 the opposite one."
        case "speed from the last place":
            return f"The place of the payment before was left at {n} km/h; an airliner flies at 900."
        case "small payments in the hour before":
            return f"{_payments(value, 'small ')} in the hour before."
        case "payments at this merchant in the 24 hours before":
            return f"{_payments(value)} at this merchant in the 24 hours before."
        case "earlier payments of the user":
            return f"Only {_payments(value)} known of this user before." if value else "The user's first payment."
    if measure.startswith("earlier payments, none "):
        return f"None of the user's {n} earlier payments was {measure.removeprefix('earlier payments, none ')}."
    if measure.startswith(("merchants in", "locations in")):
        return f"{n} different {measure.replace('locations', 'places')}."
    if measure.startswith("reported frauds of "):
        days = measure.split()[3]
        sign = "more" if value >= 0 else "fewer"
        return f"{number(abs(value))} % {sign} of its payments reported as fraud in {days} days than at all merchants."
    beside = "" if usual is None else f"; usual: {number(usual)}"
    return f"{measure.capitalize()}: {n} {found['unit']}{beside}."


def _of_user(usual: str) -> str:
    return f"the user's mean of {usual.removeprefix('the mean of ')}" if "mean" in usual else f"{usual} payments"


def _payments(count: float, kind: str = "") -> str:
    return f"{number(count)} {kind}payment{'' if count == 1 else 's'}"


def problem(body: Mapping[str, Any]) -> str:
    """A refusal of the service as a sentence."""
    if body.get("code") == "SCOPE_MISSING":
        return (
            f"Your key lacks the scope {body['scope']}, which this needs. An administrator makes a key with it: "
            f"vigil keys create NAME --scope {body['scope']}"
        )
    detail = str(body.get("detail") or body.get("title") or "The service did not answer")
    return detail[:1].upper() + detail[1:] + ("" if detail.endswith((".", "!", "?")) else ".")


def clock(at: datetime, zone: tzinfo) -> str:
    return f"{at.astimezone(zone):%H:%M:%S}"


def day(at: datetime, zone: tzinfo) -> str:
    local = at.astimezone(zone)
    return f"{local.day} {local:%b %Y}"


def local(at: datetime, zone: tzinfo) -> str:
    return f"{day(at, zone)}, {clock(at, zone)}"


def brief(at: datetime, zone: tzinfo, now: datetime) -> str:
    """Without the year where it is this one."""
    here = at.astimezone(zone)
    return f"{here.day} {here:%b}, {clock(at, zone)}" if here.year == now.astimezone(zone).year else local(at, zone)


def utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(seconds: float) -> str:
    """A length of time: 4 s, 3 min, 2 h, 5 days."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def seconds(value: float) -> str:
    if value < 1:
        return f"{1_000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else ago(value) if value >= 120 else f"{value:.0f} s"
