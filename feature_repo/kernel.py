"""The one implementation of the features: stream, synchronous detection and replay all call `fold`.

Payments are folded in the order they arrive. A payment's features use what arrived before it and nothing
else; what each feature means is said in `features.CATALOGUE` and checked against a naive oracle in the
tests.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo import features as catalogue
from feature_repo import memory, sketches, state
from feature_repo.compiled import entry, part, source_stamp
from feature_repo.features import AIRLINER_KM_PER_HOUR, RING_SIZE, SHRINK_K, WIDTH
from feature_repo.hashing import Events
from feature_repo.memory import CONFLICT, DUPLICATE, FOLDED, LATE, State, add, advance, seen
from feature_repo.sketches import SET_PLACES, Set, fetch, is_new, log, log_count, remember, total
from feature_repo.state import DAY, DAYS, HOUR, SECOND, States

__all__ = ["CONFLICT", "DUPLICATE", "FOLDED", "LATE", "WIDTH", "fold", "preview"]

Vector = npt.NDArray[np.float32]
Window = tuple[Any, float]  # payments and the sum of their amounts
AHEAD = 3  # payments between asking for a record and folding into it

SMALL_SHARE = 0.2  # a payment under this share of the user's mean is small (card testing)
PRIOR_VARIANCE = 1.0  # of log amounts, before a user has shown their own
EARTH_RADIUS_KM = 6371.0
MIN_TRAVEL_HOURS = 1.0 / 60.0  # two payments within a minute count as a minute apart

_AMOUNT_LOG, _RATIO_7D, _RATIO_30D, _Z, _TO_MAX = catalogue.positions(
    ["amount_log", "amount_ratio_7d", "amount_ratio_30d", "amount_z", "amount_to_max"]
)
_COUNT_10M, _COUNT_1H, _COUNT_24H, _RATE_24H, _SPEND_24H, _SINCE = catalogue.positions(
    ["count_10m", "count_1h", "count_24h", "rate_24h", "spend_24h", "since_last"]
)
_HOUR_DISTANCE, _NEW_MERCHANT, _MERCHANTS_24H, _NEW_LOCATION, _LOCATIONS_24H, _SPEED = catalogue.positions(
    ["hour_distance", "new_merchant", "merchants_24h", "new_location", "locations_24h", "travel_speed"]
)
_NEW_METHOD, _NEW_DEVICE, _SMALL_RUN, _JUMP, _HISTORY = catalogue.positions(
    ["new_method", "new_device", "small_run_1h", "jump_after_small", "history"]
)
_RECENT_Z, _RATE_7D, _REPEATS = catalogue.positions(["amount_z_7d", "rate_7d", "merchant_repeats_24h"])
_VOLUME, _RISK_7D, _RISK_30D = catalogue.positions(["merchant_volume_30d", "merchant_risk_7d", "merchant_risk_30d"])


@part
def _above(ratio: float) -> Any:
    """log((1 + ratio) / 2): half the logarithm around 1, the logarithm far above, bounded below.

    A payment of next to nothing is no more remarkable than a small one. Under a plain logarithm the smallest
    payments are the furthest from usual, and hide those that are five times too large.
    """
    return log(0.5 + 0.5 * ratio)


@part
def _shrunk_ratio(amount: float, count: int, amounts: float) -> Any:
    """The amount against the mean, weighted by how much history backs the mean; 0 without history."""
    if count == 0 or amounts <= 0.0:
        return np.float32(0.0)
    return _above(amount * count / amounts) * np.float32(count / (count + SHRINK_K))


@part
def _shrunk_z(value: float, weight: float, mean: float, squares: float) -> float:
    """(value - mean) / deviation of payments that weigh so much in all, both drawn towards ordinary.

    Below the mean it grows with the logarithm only, as _above does.
    """
    deviation = math.sqrt((squares + SHRINK_K * PRIOR_VARIANCE) / (weight + SHRINK_K))
    z = (value - mean) / deviation
    return weight / (weight + SHRINK_K) * (z if z >= 0.0 else -log(1.0 - z))


@part
def _km_per_hour(lat1: float, lon1: float, t1: int, lat2: float, lon2: float, t2: int) -> float:
    """Great-circle speed between two payments (haversine)."""
    rad = math.pi / 180.0
    a = (
        math.sin((lat2 - lat1) * rad / 2) ** 2
        + math.cos(lat1 * rad) * math.cos(lat2 * rad) * math.sin((lon2 - lon1) * rad / 2) ** 2
    )
    km = 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, max(0.0, a))))
    return km / max(abs(t2 - t1) / HOUR, MIN_TRAVEL_HOURS)


@part
def _week(s: State) -> Window:
    """Payments and amounts of the newest seven daily tiles."""
    count, amounts = np.int64(0), 0.0
    for day in range(s.day_head - 6, s.day_head + 1):
        count += s.day_count[day % DAYS]
        amounts += s.day_sum[day % DAYS]
    return count, amounts


@part
def _ring(
    s: State, now: int, small: float, merchant: Any, merchants: Set, places: Set, round_: int
) -> tuple[int, int, int, int, int, int, Any]:
    """Of the user's last payments: how many within 10 minutes, within 1 hour and small ones among those, distinct
    merchants and places and payments at this merchant within 24 hours, the largest amount."""
    in_10m, in_1h, small_run = 0, 0, 0
    shops, towns, repeats, largest = 0, 0, 0, np.float32(0.0)
    for i in range(min(s.count, RING_SIZE)):
        largest = max(largest, s.ring_amount[i])
        age = now - s.ring_time[i]
        if age < DAY:
            shops += is_new(merchants, s.ring_merchant[i], round_)
            towns += is_new(places, s.ring_place[i], round_)
            repeats += s.ring_merchant[i] == merchant
            if age < HOUR:
                in_1h += 1
                in_10m += age < HOUR // 6
                small_run += s.ring_amount[i] < small
    return in_10m, in_1h, small_run, shops, towns, repeats, largest


@part
def _amounts(s: State, amount: float, log_amount: float, week: Window, month: Window, largest: Any, out: Vector) -> Any:
    """The amount against the user's earlier ones; returns the ratio to the month's mean."""
    n = s.count
    out[_AMOUNT_LOG] = log_amount
    out[_RATIO_7D] = _shrunk_ratio(amount, *week)
    ratio = _shrunk_ratio(amount, *month)
    out[_RATIO_30D] = ratio
    out[_Z] = _shrunk_z(log_amount, n, s.log_mean, s.log_m2)
    weight, mean, squares = s.recent_weight, 0.0, 0.0
    if n:
        mean = s.recent_log / weight
        squares = max(0.0, s.recent_square - mean * s.recent_log)
    out[_RECENT_Z] = _shrunk_z(log_amount, weight, mean, squares)
    out[_TO_MAX] = _above(amount / largest) if largest > 0.0 else 0.0
    return ratio


@part
def _bursts(s: State, t: int, now: int, week: Window, month: Window, hour: tuple[int, int], out: Vector) -> None:
    """Counts and sums against the user's own rate; `hour` is payments of 10 minutes and of 1 hour."""
    in_10m, in_1h = hour
    day_count, day_sum = total(s.hour_count, s.hour_sum)
    days_known = min(30.0, max(1.0, (now - s.first) / DAY)) if s.count else 1.0
    daily, daily_sum = month[0] / days_known, month[1] / days_known
    days = min(7.0, days_known)
    out[_COUNT_10M] = log_count(in_10m)
    out[_COUNT_1H] = log_count(in_1h)
    out[_COUNT_24H] = log_count(day_count)
    out[_RATE_24H] = log((1.0 + day_count) / (1.0 + daily))
    out[_RATE_7D] = log((1.0 + week[0]) / (1.0 + daily * days))
    out[_SPEND_24H] = _above(day_sum / daily_sum) if daily_sum > 0.0 else 0.0
    out[_SINCE] = log(1.0 + (t - s.newest) / SECOND) if s.count and t > s.newest else 0.0


@part
def _merchant(stats: npt.NDArray[np.float32], out: Vector) -> None:
    """From the merchant's row of the snapshot (snapshot.COLUMNS)."""
    out[_VOLUME] = log(1.0 + stats[1])
    out[_RISK_7D] = stats[2]
    out[_RISK_30D] = stats[3]


@part
def _features(
    s: State, t: int, amount: float, log_amount: float, cos: float, sin: float, known: tuple[bool, bool, bool, bool],
    merchant: int, lat: float, lon: float, merchants: Set, places: Set, round_: int, out: Vector,
) -> None:  # fmt: skip
    """Features of one payment from the state before it, but the merchant's; tiles are already advanced to `now`."""
    n = s.count
    now = max(t, s.newest) if n else t
    weight = np.float32(n / (n + SHRINK_K))
    week, month = _week(s), total(s.day_count, s.day_sum)
    small = SMALL_SHARE * month[1] / month[0] if month[0] else 0.0
    shop = np.uint32(merchant & np.uint64(0xFFFFFFFF))
    in_10m, in_1h, small_run, shops, towns, repeats, largest = _ring(s, now, small, shop, merchants, places, round_)
    ratio = _amounts(s, amount, log_amount, week, month, largest, out)
    _bursts(s, t, now, week, month, (in_10m, in_1h), out)
    out[_HOUR_DISTANCE] = weight - (cos * s.hour_cos + sin * s.hour_sin) / (n + SHRINK_K)
    known_merchant, known_place, known_method, known_device = known
    out[_NEW_MERCHANT] = 0.0 if known_merchant else weight
    out[_MERCHANTS_24H] = log_count(shops)
    out[_NEW_LOCATION] = 0.0 if known_place else weight
    out[_LOCATIONS_24H] = log_count(towns)
    out[_SPEED] = 0.0
    if s.has_geo and not (math.isnan(lat) or math.isnan(lon)):
        speed = _km_per_hour(s.latitude, s.longitude, s.geo_time, lat, lon, t)
        out[_SPEED] = log(1.0 + speed / AIRLINER_KM_PER_HOUR)
    out[_NEW_METHOD] = 0.0 if known_method else weight
    out[_NEW_DEVICE] = 0.0 if known_device else weight
    run = log_count(small_run)
    out[_SMALL_RUN] = run
    out[_JUMP] = run * max(np.float32(0.0), ratio)
    out[_REPEATS] = log_count(repeats)
    out[_HISTORY] = log_count(n)


@cache
def _fold() -> Callable[..., None]:
    """The compiled loop over payments, compiled anew when the files it takes constants from change."""
    folding: Callable[..., None] = _compiled_fold(source_stamp(catalogue, memory, sketches, state))
    return folding


def _compiled_fold(stamp: str) -> Callable[..., None]:
    @entry
    def fold_rows(
        states: States, slots: npt.NDArray[np.int64], partition: int, offsets: npt.NDArray[np.int64],
        identity: npt.NDArray[np.uint64], payload: npt.NDArray[np.uint64], time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64], merchant: npt.NDArray[np.uint64], place: npt.NDArray[np.uint64],
        method: npt.NDArray[np.uint64], device: npt.NDArray[np.uint64], latitude: npt.NDArray[np.float64],
        longitude: npt.NDArray[np.float64], stats: npt.NDArray[np.float32], sets: Set,
        out: npt.NDArray[np.float32], flags: npt.NDArray[np.uint8],
    ) -> None:  # fmt: skip
        stamp  # noqa: B018 - makes it part of the closure, see compiled.py
        for i in range(slots.shape[0]):
            if i + AHEAD < slots.shape[0]:
                fetch(states, slots[i + AHEAD])
            s = states[slots[i]]
            if s.partition == partition and offsets[i] <= s.offset and partition >= 0:
                flags[i] = FOLDED
                out[i, :] = np.nan
                continue
            s.partition = partition
            s.offset = offsets[i]
            again = seen(s, identity[i], payload[i])
            if again:
                flags[i] = again
                out[i, :] = np.nan
                continue
            flags[i] = LATE if s.count and time[i] < s.newest else 0
            advance(s, time[i])
            log_amount = math.log1p(amount[i])
            angle = np.float32((time[i] % DAY) * (2.0 * math.pi / DAY))
            cos, sin = math.cos(angle), math.sin(angle)
            known = (
                remember(s.merchants, merchant[i]),
                remember(s.places, place[i]),
                remember(s.methods, method[i]),
                device[i] == 0 or remember(s.devices, device[i]),
            )
            _features(
                s, time[i], amount[i], log_amount, cos, sin, known, merchant[i], latitude[i], longitude[i],
                sets[0], sets[1], i, out[i],
            )  # fmt: skip
            _merchant(stats[i], out[i])
            add(
                s, time[i], amount[i], log_amount, cos, sin, identity[i], payload[i], merchant[i], place[i],
                method[i], latitude[i], longitude[i],
            )  # fmt: skip

    return fold_rows


def fold(
    states: States,
    slots: npt.NDArray[np.int64],
    events: Events,
    partition: int,
    offsets: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Fold payments into their users' states, in order, and return their features and flags.

    `states` are checked records (state.check) and are changed in place; `slots[i]` is the record of
    payment i's user; `partition` is -1 outside Kafka, where offsets guard nothing.
    Returns features float32[n, WIDTH] in the order of features.NAMES (NaN rows where a flag says
    DUPLICATE, CONFLICT or FOLDED: such payments have no features) and flags uint8[n].
    """
    out = np.empty((len(slots), WIDTH), np.float32)
    flags = np.empty(len(slots), np.uint8)
    columns = (
        events.id, events.payload, events.time, events.amount, events.merchant, events.place, events.method,
        events.device, events.latitude, events.longitude, events.merchant_stats,
    )  # fmt: skip
    _fold()(
        states, _plain(slots), int(partition), _plain(offsets), *(_plain(column) for column in columns),
        np.full((2, SET_PLACES), -1, np.int64), out, flags,
    )  # fmt: skip
    return out, flags


def _plain(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Contiguous and writable, so that the loop is compiled once; a copy only where it is not."""
    return np.require(column, requirements=["C", "W"])


def preview(states: States, events: Events) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Features of payments as if each came next for its user; nothing is folded.

    `states[i]` is the checked record of payment i's user and stays as it is. A payment the record has
    already seen gets the features a new one would get here, and keeps its flag DUPLICATE or CONFLICT.
    Returns features float32[n, WIDTH] and flags uint8[n], as fold does.
    """
    n = len(states)
    outside = np.full(n, -1, np.int64)
    features, flags = fold(states.copy(), np.arange(n), events, -1, outside)
    seen = np.flatnonzero(flags & (DUPLICATE | CONFLICT))
    if len(seen):
        fresh = events.take(seen)
        np.invert(fresh.id, out=fresh.id)  # an id the record does not hold
        features[seen], again = fold(states[seen], np.arange(len(seen)), fresh, -1, outside[seen])
        flags[seen] |= again
    return features, flags
