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
from feature_repo import sketches, state
from feature_repo.compiled import entry, part, source_stamp
from feature_repo.features import RING_SIZE, SHRINK_K, WIDTH
from feature_repo.hashing import Events
from feature_repo.sketches import SET_PLACES, Set, clear_skipped, fetch, is_new, log, log_count, remember, total
from feature_repo.state import DAYS, HOURS, States

State = Any  # one record of STATE_DTYPE, as compiled code sees it
AHEAD = 3  # payments between asking for a record and folding into it

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
RESET_AFTER = 30 * DAY  # silence, in event time, after which a user starts afresh
SMALL_SHARE = 0.2  # a payment under this share of the user's mean is small (card testing)
PRIOR_VARIANCE = 1.0  # of log amounts, before a user has shown their own
EARTH_RADIUS_KM = 6371.0
MIN_TRAVEL_HOURS = 1.0 / 60.0  # two payments within a minute count as a minute apart

# Flags of a payment, combined by or.
LATE = 1  # its event time lies behind the user's newest
DUPLICATE = 2  # same id and same payload among the user's last 32
CONFLICT = 4  # same id, other payload, among the user's last 32
FOLDED = 8  # the record had already seen this offset: a no-op

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


@part
def _reset(s: State) -> None:
    s.count = 0
    s.log_mean = 0.0
    s.log_m2 = 0.0
    s.hour_cos = 0.0
    s.hour_sin = 0.0
    s.has_geo = 0
    s.ring_head = 0
    s.hour_count[:] = 0
    s.hour_sum[:] = 0
    s.day_count[:] = 0
    s.day_sum[:] = 0
    s.merchants[:] = 0
    s.places[:] = 0
    s.methods[:] = 0
    s.devices[:] = 0


@part
def _advance(s: State, t: int) -> None:
    """Move the tiles forward to this payment, or start afresh after a long silence."""
    if s.count and t - s.newest > RESET_AFTER:
        _reset(s)
    hour, day = t // HOUR, t // DAY
    if s.count == 0:
        s.hour_head = hour
        s.day_head = day
        return
    if hour > s.hour_head:
        clear_skipped(s.hour_count, s.hour_sum, s.hour_head, hour, HOURS)
        s.hour_head = hour
    if day > s.day_head:
        clear_skipped(s.day_count, s.day_sum, s.day_head, day, DAYS)
        s.day_head = day


@part
def _shrunk_ratio(amount: float, count: int, amounts: float) -> Any:
    """log(amount / mean), weighted by how much history backs the mean; 0 without history."""
    if count == 0 or amounts <= 0.0:
        return np.float32(0.0)
    return log(amount * count / amounts) * np.float32(count / (count + SHRINK_K))


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
def _seen(s: State, identity: int, payload: int) -> int:
    """DUPLICATE, CONFLICT or 0: what the user's last payments say of this id."""
    for i in range(min(s.count, RING_SIZE)):
        if s.ring_id[i] == identity:
            return DUPLICATE if s.ring_payload[i] == payload else CONFLICT
    return 0


@part
def _week(s: State) -> tuple[Any, float]:
    """Payments and amounts of the newest seven daily tiles."""
    count, amounts = np.int64(0), 0.0
    for day in range(s.day_head - 6, s.day_head + 1):
        count += s.day_count[day % DAYS]
        amounts += s.day_sum[day % DAYS]
    return count, amounts


@part
def _ring(
    s: State, now: int, small: float, merchants: Set, places: Set, round_: int
) -> tuple[int, int, int, int, int, Any]:
    """Of the user's last payments: how many within 10 minutes, within 1 hour and small among those, distinct
    merchants and places within 24 hours, and the largest amount."""
    in_10m, in_1h, small_run, shops, towns, largest = 0, 0, 0, 0, 0, np.float32(0.0)
    for i in range(min(s.count, RING_SIZE)):
        largest = max(largest, s.ring_amount[i])
        age = now - s.ring_time[i]
        if age < DAY:
            shops += is_new(merchants, s.ring_merchant[i], round_)
            towns += is_new(places, s.ring_place[i], round_)
            if age < HOUR:
                in_1h += 1
                in_10m += age < HOUR // 6
                small_run += s.ring_amount[i] < small
    return in_10m, in_1h, small_run, shops, towns, largest


@part
def _features(
    s: State, t: int, amount: float, log_amount: float, cos: float, sin: float, known: tuple[bool, bool, bool, bool],
    lat: float, lon: float, merchants: Set, places: Set, round_: int, out: npt.NDArray[np.float32],
) -> None:  # fmt: skip
    """Features of one payment from the state before it; tiles are already advanced to `now`."""
    n = s.count
    now = max(t, s.newest) if n else t
    weight = np.float32(n / (n + SHRINK_K))

    month_count, month_sum = total(s.day_count, s.day_sum)
    week_count, week_sum = _week(s)
    day_count, day_sum = total(s.hour_count, s.hour_sum)
    small = SMALL_SHARE * month_sum / month_count if month_count else 0.0
    in_10m, in_1h, small_run, shops, towns, largest = _ring(s, now, small, merchants, places, round_)

    out[_AMOUNT_LOG] = log_amount
    out[_RATIO_7D] = _shrunk_ratio(amount, week_count, week_sum)
    ratio = _shrunk_ratio(amount, month_count, month_sum)
    out[_RATIO_30D] = ratio
    deviation = math.sqrt((s.log_m2 + SHRINK_K * PRIOR_VARIANCE) / (n + SHRINK_K))
    out[_Z] = weight * (log_amount - s.log_mean) / deviation
    out[_TO_MAX] = log(amount / largest) if largest > 0.0 else 0.0
    out[_COUNT_10M] = log_count(in_10m)
    out[_COUNT_1H] = log_count(in_1h)
    out[_COUNT_24H] = log_count(day_count)
    days_known = min(30.0, max(1.0, (now - s.first) / DAY)) if n else 1.0
    out[_RATE_24H] = log((1.0 + day_count) / (1.0 + month_count / days_known))
    out[_SPEND_24H] = log((1.0 + day_sum) / (1.0 + month_sum / days_known))
    out[_SINCE] = log(1.0 + (t - s.newest) / SECOND) if n and t > s.newest else 0.0
    out[_HOUR_DISTANCE] = weight - (cos * s.hour_cos + sin * s.hour_sin) / (n + SHRINK_K)
    known_merchant, known_place, known_method, known_device = known
    out[_NEW_MERCHANT] = 0.0 if known_merchant else weight
    out[_MERCHANTS_24H] = log_count(shops)
    out[_NEW_LOCATION] = 0.0 if known_place else weight
    out[_LOCATIONS_24H] = log_count(towns)
    out[_SPEED] = 0.0
    if s.has_geo and not (math.isnan(lat) or math.isnan(lon)):
        out[_SPEED] = log(1.0 + _km_per_hour(s.latitude, s.longitude, s.geo_time, lat, lon, t))
    out[_NEW_METHOD] = 0.0 if known_method else weight
    out[_NEW_DEVICE] = 0.0 if known_device else weight
    run = log_count(small_run)
    out[_SMALL_RUN] = run
    out[_JUMP] = run * max(np.float32(0.0), ratio)
    out[_HISTORY] = log_count(n)


@part
def _add(
    s: State, t: int, amount: float, log_amount: float, cos: float, sin: float, identity: int, payload: int,
    merchant: int, place: int, method: int, device: int, lat: float, lon: float,
) -> None:  # fmt: skip
    """Fold one payment into the state; late ones go into the tile they belong to, if it is still held."""
    hour, day = t // HOUR, t // DAY
    if hour > s.hour_head - HOURS:
        s.hour_count[hour % HOURS] += np.uint32(1)
        s.hour_sum[hour % HOURS] += np.float32(amount)
    if day > s.day_head - DAYS:
        s.day_count[day % DAYS] += np.uint32(1)
        s.day_sum[day % DAYS] += np.float32(amount)
    if s.count == 0:
        s.first = t
        s.newest = t
    s.first = min(s.first, t)
    s.newest = max(s.newest, t)
    s.count += 1
    delta = log_amount - s.log_mean
    s.log_mean += delta / s.count
    s.log_m2 += delta * (log_amount - s.log_mean)
    s.hour_cos += cos
    s.hour_sin += sin
    if not (math.isnan(lat) or math.isnan(lon)):
        s.has_geo = 1
        s.geo_time = t
        s.latitude = np.float32(lat)
        s.longitude = np.float32(lon)
    i = s.ring_head
    s.ring_time[i] = t
    s.ring_id[i] = identity
    s.ring_payload[i] = payload
    s.ring_amount[i] = np.float32(amount)
    s.ring_merchant[i] = np.uint32(merchant & np.uint64(0xFFFFFFFF))
    s.ring_place[i] = np.uint32(place & np.uint64(0xFFFFFFFF))
    s.ring_method[i] = np.uint16(method & np.uint64(0xFFFF))
    s.ring_device[i] = np.uint16(device & np.uint64(0xFFFF))
    s.ring_head = (i + 1) % RING_SIZE


@cache
def _fold() -> Callable[..., None]:
    """The compiled loop over payments, compiled anew when the files it takes constants from change."""
    folding: Callable[..., None] = _compiled_fold(source_stamp(catalogue, sketches, state))
    return folding


def _compiled_fold(stamp: str) -> Callable[..., None]:
    @entry
    def fold_rows(
        states: States, slots: npt.NDArray[np.int64], partition: int, offsets: npt.NDArray[np.int64],
        identity: npt.NDArray[np.uint64], payload: npt.NDArray[np.uint64], time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64], merchant: npt.NDArray[np.uint64], place: npt.NDArray[np.uint64],
        method: npt.NDArray[np.uint64], device: npt.NDArray[np.uint64], latitude: npt.NDArray[np.float64],
        longitude: npt.NDArray[np.float64], sets: Set, out: npt.NDArray[np.float32],
        flags: npt.NDArray[np.uint8],
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
            seen = _seen(s, identity[i], payload[i])
            if seen:
                flags[i] = seen
                out[i, :] = np.nan
                continue
            flags[i] = LATE if s.count and time[i] < s.newest else 0
            _advance(s, time[i])
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
                s, time[i], amount[i], log_amount, cos, sin, known, latitude[i], longitude[i],
                sets[0], sets[1], i, out[i],
            )  # fmt: skip
            _add(
                s, time[i], amount[i], log_amount, cos, sin, identity[i], payload[i], merchant[i], place[i],
                method[i], device[i], latitude[i], longitude[i],
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
        events.device, events.latitude, events.longitude,
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
