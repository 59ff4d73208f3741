"""What each feature means, said a second time and as plainly as possible.

Every value is computed from the list of the user's earlier payments alone: no state, no tiles, no running
sums. Constants are the kernel's; code is not. Speed does not matter (every payment looks at all before it).

What the kernel approximates is part of the meaning and is modelled here: the ring is the last 32 payments,
amounts and coordinates are remembered as float32. Not modelled are the false positives of the Bloom filters
behind the `new_` features: the tests draw merchants, places, methods and devices from pools small enough
that there are none, and check that.
"""

import math
from dataclasses import dataclass

import numpy as np

from feature_repo.features import AIRLINER_KM_PER_HOUR, RING_SIZE, SHRINK_K
from feature_repo.kernel import EARTH_RADIUS_KM, PRIOR_VARIANCE, SMALL_SHARE
from feature_repo.memory import CONFLICT, DUPLICATE, LATE
from feature_repo.state import DAY, HOUR

MONTH_OF_SILENCE = 30 * DAY
MINUTE = HOUR // 60
SECOND = MINUTE // 60
MerchantStats = tuple[float, float, float, float]  # payments of 7 and 30 days, excess risk of 7 and 30 days
UNKNOWN_MERCHANT: MerchantStats = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Payment:
    """One payment in the contract's fields; time in microseconds since 1970 UTC."""

    id: str
    user: str
    time: int
    amount: float
    merchant: str
    place: str
    method: str
    device: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True)
class Meant:
    """What the kernel should say of one payment; no features where it was seen before.

    `borderline` names features whose value hangs on a comparison that rounding may decide either way.
    """

    flags: int
    features: dict[str, float] | None
    borderline: frozenset[str] = frozenset()


def meanings(payments: list[Payment], known: dict[str, MerchantStats]) -> list[Meant]:
    """What the kernel should say of payments in order of arrival, all of which use one snapshot of merchants."""
    lives: dict[str, list[Payment]] = {}  # by user: payments since the last reset
    out = []
    for payment in payments:
        past = lives.setdefault(payment.user, [])
        seen = [other for other in past[-RING_SIZE:] if other.id == payment.id]
        if seen:
            out.append(Meant(DUPLICATE if seen[0] == payment else CONFLICT, None))
            continue
        newest = max((other.time for other in past), default=payment.time)
        if payment.time - newest > MONTH_OF_SILENCE:
            past.clear()
        flags = LATE if past and payment.time < newest else 0
        out.append(Meant(flags, meaning(payment, past, known), borderline(payment, past)))
        past.append(payment)
    return out


def meaning(p: Payment, past: list[Payment], known: dict[str, MerchantStats]) -> dict[str, float]:
    """Every feature of one payment, from the user's earlier payments in order of arrival."""
    n = len(past)
    now = max([p.time, *(q.time for q in past)])
    trust = n / (n + SHRINK_K)
    ring = past[-RING_SIZE:]
    day = [q for q in past if now // HOUR - q.time // HOUR < 24]
    week = [q for q in past if now // DAY - q.time // DAY < 7]
    month = [q for q in past if now // DAY - q.time // DAY < 30]
    ring_10m = [q for q in ring if now - q.time < 10 * MINUTE]
    ring_1h = [q for q in ring if now - q.time < HOUR]
    ring_24h = [q for q in ring if now - q.time < DAY]
    small = [q for q in ring_1h if remembered(q.amount) < small_limit(month)]
    days_known = min(30.0, max(1.0, (now - min(q.time for q in past)) / DAY)) if past else 1.0
    ratio_30d = ratio(p.amount, month)
    stats = known.get(p.merchant, UNKNOWN_MERCHANT)
    return {
        "amount_log": math.log(1 + p.amount),
        "amount_ratio_7d": ratio(p.amount, week),
        "amount_ratio_30d": ratio_30d,
        "amount_z": trust * z_score(p.amount, past),
        "amount_to_max": above(p.amount / max(q.amount for q in ring)) if ring else 0.0,
        "count_10m": math.log(1 + len(ring_10m)),
        "count_1h": math.log(1 + len(ring_1h)),
        "count_24h": math.log(1 + len(day)),
        "rate_24h": math.log((1 + len(day)) / (1 + len(month) / days_known)),
        "spend_24h": above(total(day) / (total(month) / days_known)) if month else 0.0,
        "since_last": math.log(1 + max(0, p.time - max(q.time for q in past)) / SECOND) if past else 0.0,
        "hour_distance": trust - hour_closeness(p, past),
        "new_merchant": trust if p.merchant not in {q.merchant for q in past} else 0.0,
        "merchants_24h": math.log(1 + len({q.merchant for q in ring_24h})),
        "new_location": trust if p.place not in {q.place for q in past} else 0.0,
        "locations_24h": math.log(1 + len({q.place for q in ring_24h})),
        "travel_speed": math.log(1 + speed(p, past) / AIRLINER_KM_PER_HOUR),
        "new_method": trust if p.method not in {q.method for q in past} else 0.0,
        "new_device": trust if p.device is not None and p.device not in {q.device for q in past} else 0.0,
        "small_run_1h": math.log(1 + len(small)),
        "jump_after_small": math.log(1 + len(small)) * max(0.0, ratio_30d),
        "history": math.log(1 + n),
        "amount_z_7d": recent_z_score(p.amount, past, now),
        "rate_7d": math.log((1 + len(week)) / (1 + len(month) / days_known * min(7, days_known))),
        "merchant_repeats_24h": math.log(1 + sum(q.merchant == p.merchant for q in ring_24h)),
        "merchant_volume_30d": math.log(1 + stats[1]),
        "merchant_risk_7d": stats[2],
        "merchant_risk_30d": stats[3],
    }


def borderline(p: Payment, past: list[Payment]) -> frozenset[str]:
    """The card-testing features where a payment of the last hour is as good as equal to the limit."""
    now = max([p.time, *(q.time for q in past)])
    limit = small_limit([q for q in past if now // DAY - q.time // DAY < 30])
    near = [q for q in past[-RING_SIZE:] if abs(q.amount - limit) <= 1e-5 * limit]
    return frozenset({"small_run_1h", "jump_after_small"}) if near else frozenset()


def remembered(value: float) -> float:
    return float(np.float32(value))


def total(payments: list[Payment]) -> float:
    return sum(q.amount for q in payments)


def small_limit(month: list[Payment]) -> float:
    return SMALL_SHARE * total(month) / len(month) if month else 0.0


def above(ratio: float) -> float:
    """As the logarithm above 1; not under log(1/2) below."""
    return math.log((1 + ratio) / 2)


def below_softly(z: float) -> float:
    return z if z >= 0 else -math.log(1 - z)


def ratio(amount: float, window: list[Payment]) -> float:
    n = len(window)
    return above(amount / (total(window) / n)) * n / (n + SHRINK_K) if window else 0.0


def z_score(amount: float, past: list[Payment]) -> float:
    """(log amount - mean) / deviation, the variance shrunk towards the prior's with a weight of k payments."""
    logs = [math.log(1 + q.amount) for q in past]
    mean = sum(logs) / len(logs) if logs else 0.0
    squares = sum((x - mean) ** 2 for x in logs)
    deviation = math.sqrt((squares + SHRINK_K * PRIOR_VARIANCE) / (len(past) + SHRINK_K))
    return below_softly((math.log(1 + amount) - mean) / deviation)


def recent_z_score(amount: float, past: list[Payment], now: int) -> float:
    """z_score with payments that weigh half as much for each seven days they lie before `now`."""
    if not past:
        return 0.0
    weights = [0.5 ** ((now - q.time) / (7 * DAY)) for q in past]
    logs = [math.log(1 + q.amount) for q in past]
    weight = math.fsum(weights)
    mean = math.fsum(w * x for w, x in zip(weights, logs, strict=True)) / weight
    squares = math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, logs, strict=True))
    deviation = math.sqrt((squares + SHRINK_K * PRIOR_VARIANCE) / (weight + SHRINK_K))
    return weight / (weight + SHRINK_K) * below_softly((math.log(1 + amount) - mean) / deviation)


def hour_closeness(p: Payment, past: list[Payment]) -> float:
    """Mean cosine between this payment's clock angle and the earlier ones', shrunk."""
    angle = 2 * math.pi * (p.time % DAY) / DAY
    cosines = sum(math.cos(2 * math.pi * (q.time % DAY) / DAY - angle) for q in past)
    return cosines / (len(past) + SHRINK_K)


def speed(p: Payment, past: list[Payment]) -> float:
    """km/h from the last payment to arrive with coordinates; at least a minute is taken to lie between."""
    placed = [q for q in past if q.latitude is not None and q.longitude is not None]
    if p.latitude is None or p.longitude is None or not placed:
        return 0.0
    last = placed[-1]
    assert last.latitude is not None and last.longitude is not None
    here = on_sphere(p.latitude, p.longitude)
    there = on_sphere(remembered(last.latitude), remembered(last.longitude))
    km = 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.dist(here, there) / 2))  # from the chord
    return km / (max(abs(p.time - last.time), MINUTE) / HOUR)


def on_sphere(latitude: float, longitude: float) -> tuple[float, float, float]:
    a, b = math.radians(latitude), math.radians(longitude)
    return math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a)
