"""The one implementation of the features: stream, synchronous detection and replay all call `fold`.

Payments are folded in the order they arrive. A payment's features use what arrived before it and nothing
else; what each feature means is said in `features.CATALOGUE` and checked against a naive oracle in the
tests.

The loop takes BLOCK payments at a time: first what depends on the payment alone, then the user's records one after
the other, then logarithms and distances, so that those are computed several at a time (`_measure`, `_features`,
`_finish`).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from feature_repo import elementary, memory, sketches, state
from feature_repo import features as catalogue
from feature_repo.compiled import entry, orderless, part, source_stamp
from feature_repo.elementary import arc_sine, log, log_double, sine
from feature_repo.features import AIRLINER_KM_PER_HOUR, RING_SIZE, SHRINK_K, WIDTH
from feature_repo.hashing import Events
from feature_repo.memory import CONFLICT, DUPLICATE, FOLDED, LATE, State, add, advance, seen
from feature_repo.sketches import SET_PLACES, Set, fetch, is_new, newest, remember, total
from feature_repo.state import DAY, HOUR, SECOND, States

__all__ = ["CONFLICT", "DUPLICATE", "FOLDED", "LATE", "WIDTH", "fold", "preview"]

Vector = npt.NDArray[np.float32]
Window = tuple[Any, float]  # payments and the sum of their amounts
AHEAD = 4  # payments between asking for a record and folding into it
BLOCK = 64  # payments taken together: their numbers stay in the first-level cache

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


_LOGARITHMS = catalogue.positions(
    [
        "amount_ratio_7d", "amount_ratio_30d", "amount_to_max", "count_10m", "count_1h", "count_24h", "rate_24h",
        "spend_24h", "since_last", "merchants_24h", "locations_24h", "travel_speed", "small_run_1h", "history",
        "rate_7d", "merchant_repeats_24h", "merchant_volume_30d",
    ]
)  # fmt: skip


class Block(NamedTuple):
    """What a block of payments needs besides its features; one entry per payment."""

    log_amount: npt.NDArray[np.float64]
    cos: npt.NDArray[np.float64]  # of the clock angle, UTC
    sin: npt.NDArray[np.float64]
    from_latitude: npt.NDArray[np.float64]  # degrees, of the user's last payment with coordinates
    from_longitude: npt.NDArray[np.float64]
    to_latitude: npt.NDArray[np.float64]  # and of this one
    to_longitude: npt.NDArray[np.float64]
    hours: npt.NDArray[np.float64]  # between the two; infinite where one of them is missing
    scale: Vector  # [BLOCK, WIDTH] of a logarithm; 0 where a feature is none

    @classmethod
    def empty(cls) -> "Block":
        scale = np.zeros((BLOCK, WIDTH), np.float32)
        scale[:, _LOGARITHMS] = 1.0
        return cls._make([*np.zeros((8, BLOCK)), scale])


@part
def _measure(block: Block, time: npt.NDArray[np.int64], amount: npt.NDArray[np.float64]) -> None:
    """What depends on the payments alone."""
    for i in range(time.shape[0]):
        block.log_amount[i] = log_double(1.0 + amount[i])
    for i in range(time.shape[0]):
        days = time[i] / DAY
        turns = days - np.floor(days) - 0.5  # half a day early: sine and cosine change their signs
        block.sin[i] = -sine(turns)
        block.cos[i] = sine(abs(turns) - 0.25)


@part
def _above(ratio: float) -> float:
    """What log((1 + ratio) / 2) is taken of: half the logarithm around 1, the logarithm far above, bounded below.

    A payment of next to nothing is no more remarkable than a small one. Under a plain logarithm the smallest
    payments are the furthest from usual, and hide those that are five times too large.
    """
    return 0.5 + 0.5 * ratio


@part
def _ratio(amount: float, window: Window) -> float:
    """The amount against the window's mean; 1, as usual, without any."""
    count, amounts = window
    return amount * count / amounts if amounts > 0.0 else 1.0


@part
def _trust(weight: float) -> float:
    """How far payments that weigh so much in all are believed, 0 to 1."""
    return weight / (weight + SHRINK_K)


@part
def _shrunk_z(
    value: float, weight: float, mean: float, squares: float, column: int, out: Vector, scale: Vector
) -> None:
    """(value - mean) / deviation of payments that weigh so much in all, both drawn towards ordinary.

    Below the mean it grows with the logarithm only, as _above does.
    """
    z = (value - mean) / math.sqrt((squares + SHRINK_K * PRIOR_VARIANCE) / (weight + SHRINK_K))
    trust = _trust(weight)
    out[column] = trust * z if z >= 0.0 else 1.0 - z
    scale[column] = 0.0 if z >= 0.0 else -trust


@orderless
def _largest(s: State) -> Any:
    """Amount of the user's last payments; 0 without any."""
    held = min(s.count, RING_SIZE)
    largest = np.float32(0.0)
    for i in range(RING_SIZE):
        amount = s.ring_amount[i] if i < held else np.float32(0.0)
        largest = amount if amount > largest else largest
    return largest


@part
def _ring(
    s: State, now: int, small: float, merchant: Any, merchants: Set, places: Set, round_: int
) -> tuple[int, int, int, int, int, int]:
    """Of the user's last payments: how many within 10 minutes, within 1 hour and small ones among those, distinct
    merchants and places and payments at this merchant within 24 hours."""
    in_10m, in_1h, small_run = 0, 0, 0
    shops, towns, repeats = 0, 0, 0
    if now - s.newest >= DAY:  # so are all of them
        return in_10m, in_1h, small_run, shops, towns, repeats
    for i in range(min(s.count, RING_SIZE)):
        age = now - s.ring_time[i]
        if age < DAY:
            shops += is_new(merchants, s.ring_merchant[i], round_)
            towns += is_new(places, s.ring_place[i], round_)
            repeats += s.ring_merchant[i] == merchant
            if age < HOUR:
                in_1h += 1
                in_10m += age < HOUR // 6
                small_run += s.ring_amount[i] < small
    return in_10m, in_1h, small_run, shops, towns, repeats


@part
def _amounts(
    s: State, amount: float, log_amount: float, week: Window, month: Window, out: Vector, scale: Vector
) -> None:
    """The amount against the user's earlier ones."""
    n = s.count
    out[_AMOUNT_LOG] = log_amount
    out[_RATIO_7D] = _above(_ratio(amount, week))
    scale[_RATIO_7D] = _trust(max(week[0], 1))
    out[_RATIO_30D] = _above(_ratio(amount, month))
    scale[_RATIO_30D] = _trust(max(month[0], 1))
    _shrunk_z(log_amount, n, s.log_mean, s.log_m2, _Z, out, scale)
    weight, mean, squares = s.recent_weight, 0.0, 0.0
    if n:
        mean = s.recent_log / weight
        squares = max(0.0, s.recent_square - mean * s.recent_log)
    _shrunk_z(log_amount, weight, mean, squares, _RECENT_Z, out, scale)
    largest = _largest(s)
    out[_TO_MAX] = _above(amount / largest if largest > 0.0 else 1.0)


@part
def _bursts(s: State, t: int, now: int, week: Window, month: Window, out: Vector) -> None:
    """Counts and sums against the user's own rate."""
    day_count, day_sum = total(s.hour_count, s.hour_sum)
    days_known = min(30.0, max(1.0, (now - s.first) / DAY)) if s.count else 1.0
    daily, daily_sum = month[0] / days_known, month[1] / days_known
    out[_COUNT_24H] = 1.0 + day_count
    out[_RATE_24H] = (1.0 + day_count) / (1.0 + daily)
    out[_RATE_7D] = (1.0 + week[0]) / (1.0 + daily * min(7.0, days_known))
    out[_SPEND_24H] = _above(day_sum / daily_sum if daily_sum > 0.0 else 1.0)
    out[_SINCE] = 1.0 + (t - s.newest) / SECOND if s.count and t > s.newest else 1.0


@part
def _travel(s: State, t: int, latitude: float, longitude: float, block: Block, at: int) -> None:
    """Notes where the user comes from, for _finish."""
    here = not (math.isnan(latitude) or math.isnan(longitude))
    block.hours[at] = np.inf
    block.to_latitude[at] = latitude if here else 0.0
    block.to_longitude[at] = longitude if here else 0.0
    if here and s.has_geo:
        block.hours[at] = max(abs(t - s.geo_time) / HOUR, MIN_TRAVEL_HOURS)
        block.from_latitude[at] = s.latitude
        block.from_longitude[at] = s.longitude


@part
def _features(
    s: State, t: int, amount: float, log_amount: float, cos: float, sin: float, known: tuple[bool, bool, bool, bool],
    merchant: int, stats: Vector, merchants: Set, places: Set, round_: int, out: Vector, scale: Vector,
) -> None:  # fmt: skip
    """Features of one payment from the state before it, but the speed; tiles are already advanced to `now`.

    Of _LOGARITHMS `out` gets what they are taken of, `scale` what they are multiplied by where it is not 1.
    """
    n = s.count
    now = max(t, s.newest) if n else t
    weight = _trust(n)
    week, month = newest(s.day_count, s.day_sum, s.day_head, 7), total(s.day_count, s.day_sum)
    small = SMALL_SHARE * month[1] / month[0] if month[0] else 0.0
    shop = np.uint32(merchant & np.uint64(0xFFFFFFFF))
    in_10m, in_1h, small_run, shops, towns, repeats = _ring(s, now, small, shop, merchants, places, round_)
    _amounts(s, amount, log_amount, week, month, out, scale)
    _bursts(s, t, now, week, month, out)
    out[_COUNT_10M] = 1.0 + in_10m
    out[_COUNT_1H] = 1.0 + in_1h
    out[_HOUR_DISTANCE] = weight - (cos * s.hour_cos + sin * s.hour_sin) / (n + SHRINK_K)
    known_merchant, known_place, known_method, known_device = known
    out[_NEW_MERCHANT] = 0.0 if known_merchant else weight
    out[_MERCHANTS_24H] = 1.0 + shops
    out[_NEW_LOCATION] = 0.0 if known_place else weight
    out[_LOCATIONS_24H] = 1.0 + towns
    out[_NEW_METHOD] = 0.0 if known_method else weight
    out[_NEW_DEVICE] = 0.0 if known_device else weight
    out[_SMALL_RUN] = 1.0 + small_run
    out[_HISTORY] = 1.0 + n
    out[_REPEATS] = 1.0 + repeats
    out[_VOLUME] = 1.0 + stats[1]  # the merchant's row of the snapshot (snapshot.COLUMNS)
    out[_RISK_7D] = stats[2]
    out[_RISK_30D] = stats[3]


@part
def _finish(block: Block, flags: npt.NDArray[np.uint8], out: Vector) -> None:
    """Speeds, logarithms and what is made of them, of a block's features [n, WIDTH]; NaN for repeats."""
    for i in range(out.shape[0]):
        out[i, _SPEED] = 1.0 + _km(block, i) / block.hours[i] / AIRLINER_KM_PER_HOUR
    for i in range(out.shape[0]):
        for column in range(WIDTH):
            value, scale = out[i, column], block.scale[i, column]
            out[i, column] = value if scale == 0.0 else scale * log(value)
    for i in range(out.shape[0]):
        out[i, _JUMP] = out[i, _SMALL_RUN] * max(np.float32(0.0), out[i, _RATIO_30D])
        if flags[i] & (FOLDED | DUPLICATE | CONFLICT):
            out[i, :] = np.nan


@part
def _km(block: Block, i: int) -> float:
    """Great-circle distance between two payments (haversine)."""
    north = sine((block.to_latitude[i] - block.from_latitude[i]) / 720.0)
    east = sine((block.to_longitude[i] - block.from_longitude[i]) / 720.0)
    cosines = sine(0.25 - abs(block.from_latitude[i]) / 360.0) * sine(0.25 - abs(block.to_latitude[i]) / 360.0)
    a = north * north + cosines * east * east
    return 2.0 * EARTH_RADIUS_KM * arc_sine(math.sqrt(min(1.0, a)))


@cache
def _fold() -> Callable[..., None]:
    """The compiled loop over payments, compiled anew when the files it takes constants from change."""
    folding: Callable[..., None] = _compiled_fold(source_stamp(catalogue, elementary, memory, sketches, state))
    return folding


def _compiled_fold(stamp: str) -> Callable[..., None]:
    @entry
    def fold_rows(
        states: States, slots: npt.NDArray[np.int64], partition: int, offsets: npt.NDArray[np.int64],
        identity: npt.NDArray[np.uint64], payload: npt.NDArray[np.uint64], time: npt.NDArray[np.int64],
        amount: npt.NDArray[np.float64], merchant: npt.NDArray[np.uint64], place: npt.NDArray[np.uint64],
        method: npt.NDArray[np.uint64], device: npt.NDArray[np.uint64], latitude: npt.NDArray[np.float64],
        longitude: npt.NDArray[np.float64], stats: npt.NDArray[np.float32], sets: Set, block: Block,
        out: npt.NDArray[np.float32], flags: npt.NDArray[np.uint8],
    ) -> None:  # fmt: skip
        stamp  # noqa: B018 - makes it part of the closure, see compiled.py
        for start in range(0, slots.shape[0], BLOCK):
            stop = min(start + BLOCK, slots.shape[0])
            _measure(block, time[start:stop], amount[start:stop])
            for i in range(start, stop):
                if i + AHEAD < slots.shape[0]:
                    fetch(states, slots[i + AHEAD])
                s = states[slots[i]]
                if s.partition == partition and offsets[i] <= s.offset and partition >= 0:
                    flags[i] = FOLDED
                    continue
                s.partition = partition
                s.offset = offsets[i]
                flags[i] = seen(s, identity[i], payload[i])
                if flags[i]:
                    continue
                flags[i] = LATE if s.count and time[i] < s.newest else 0
                advance(s, time[i])
                known = (
                    remember(s.merchants, merchant[i]),
                    remember(s.places, place[i]),
                    remember(s.methods, method[i]),
                    device[i] == 0 or remember(s.devices, device[i]),
                )
                at = i - start
                log_amount, cos, sin = block.log_amount[at], block.cos[at], block.sin[at]
                _travel(s, time[i], latitude[i], longitude[i], block, at)
                _features(
                    s, time[i], amount[i], log_amount, cos, sin, known, merchant[i], stats[i], sets[0], sets[1], i,
                    out[i], block.scale[at],
                )  # fmt: skip
                add(
                    s, time[i], amount[i], log_amount, cos, sin, identity[i], payload[i], merchant[i], place[i],
                    method[i], latitude[i], longitude[i],
                )  # fmt: skip
            _finish(block, flags[start:stop], out[start:stop])

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
        np.full((2, SET_PLACES), -1, np.int64), Block.empty(), out, flags,
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
