"""What a user's record remembers of a payment: tiles, running sums and the ring, moved forward and added to.

Everything here is compiled into the kernel's one loop.
"""

import math
from typing import Any

import numpy as np

from feature_repo.compiled import part
from feature_repo.elementary import halved
from feature_repo.features import RING_SIZE
from feature_repo.sketches import clear_skipped
from feature_repo.state import DAY, DAYS, HOUR, HOURS

State = Any  # one record of STATE_DTYPE, as compiled code sees it

RESET_AFTER = 30 * DAY  # silence, in event time, after which a user starts afresh
RECENT_HALF_LIFE = 7 * DAY

# Flags of a payment, combined by or.
LATE = 1  # its event time lies behind the user's newest
DUPLICATE = 2  # same id and same payload among the user's last 32
CONFLICT = 4  # same id, other payload, among the user's last 32
FOLDED = 8  # the record had already seen this offset: a no-op


@part
def seen(s: State, identity: int, payload: int) -> int:
    """DUPLICATE, CONFLICT or 0: what the user's last payments say of this id."""
    held = False
    for i in range(RING_SIZE):  # without a way out, so that several ids are compared at a time
        held |= s.ring_id[i] == identity
    if held:
        for i in range(min(s.count, RING_SIZE)):
            if s.ring_id[i] == identity:
                return DUPLICATE if s.ring_payload[i] == payload else CONFLICT
    return 0


@part
def _reset(s: State) -> None:
    """As empty as a fresh record, to the byte: it makes no difference whether a silent user's record was swept."""
    s.count = 0
    s.log_mean = 0.0
    s.log_m2 = 0.0
    s.recent_weight = 0.0
    s.recent_log = 0.0
    s.recent_square = 0.0
    s.hour_cos = 0.0
    s.hour_sin = 0.0
    s.has_geo = 0
    s.geo_time = 0
    s.latitude = np.float32(0.0)
    s.longitude = np.float32(0.0)
    s.ring_head = 0
    s.hour_count[:] = 0
    s.hour_sum[:] = 0
    s.day_count[:] = 0
    s.day_sum[:] = 0
    s.ring_time[:] = 0
    s.ring_id[:] = 0
    s.ring_payload[:] = 0
    s.ring_amount[:] = 0
    s.ring_merchant[:] = 0
    s.ring_place[:] = 0
    s.ring_method[:] = 0
    s.merchants[:] = 0
    s.places[:] = 0
    s.methods[:] = 0
    s.devices[:] = 0


@part
def advance(s: State, t: int) -> None:
    """Move tiles and decaying sums forward to this payment, or start afresh after a long silence."""
    if s.count and t - s.newest > RESET_AFTER:
        _reset(s)
    hour, day = t // HOUR, t // DAY
    if s.count == 0:
        s.hour_head = hour
        s.day_head = day
        return
    if t > s.newest:
        faded = halved((t - s.newest) / RECENT_HALF_LIFE)
        s.recent_weight *= faded
        s.recent_log *= faded
        s.recent_square *= faded
    if hour > s.hour_head:
        clear_skipped(s.hour_count, s.hour_sum, s.hour_head, hour, HOURS)
        s.hour_head = hour
    if day > s.day_head:
        clear_skipped(s.day_count, s.day_sum, s.day_head, day, DAYS)
        s.day_head = day


@part
def add(
    s: State, t: int, amount: float, log_amount: float, cos: float, sin: float, identity: int, payload: int,
    merchant: int, place: int, method: int, lat: float, lon: float,
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
    weight = halved((s.newest - t) / RECENT_HALF_LIFE) if t < s.newest else 1.0
    s.recent_weight += weight
    s.recent_log += weight * log_amount
    s.recent_square += weight * log_amount * log_amount
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
    s.ring_head = (i + 1) % RING_SIZE
