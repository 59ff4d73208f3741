"""The user state: one fixed-size record of 2,000 bytes per user, everything the kernel remembers.

The record is what Redis stores, byte for byte. Its header lets a reader refuse garbage before compiled
code touches it: magic, layout version, owner and a checksum of all of it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.compiled import entry, part
from feature_repo.errors import StateCorrupt
from feature_repo.features import RING_SIZE

MAGIC = 0x4C474956  # "VIGL", little endian
LAYOUT = 2
SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
HOURS = 24
DAYS = 30
MERCHANT_BITS = 1_024  # Bloom filter, 4 probes: 1 % false "known" at 100 merchants
PLACE_BITS = 256
METHOD_BITS = 128
DEVICE_BITS = 256

STATE_DTYPE = np.dtype(
    [
        ("magic", "<u4"),
        ("layout", "<u2"),
        ("has_geo", "<u2"),
        ("checksum", "<u8"),
        ("user", "<u8"),  # hash of user_id: whose record this is
        ("partition", "<i4"),  # of the last payment folded in, -1 outside Kafka
        ("hour_head", "<i4"),  # newest hourly tile, hours since 1970
        ("offset", "<i8"),  # of the last payment folded in
        ("newest", "<i8"),  # newest event time, microseconds since 1970
        ("first", "<i8"),  # first event time since the last reset
        ("count", "<i8"),  # payments folded in since the last reset
        ("log_mean", "<f8"),  # of log(1 + amount), Welford
        ("log_m2", "<f8"),
        ("recent_weight", "<f8"),  # sums over payments of 2 ** -(time before newest / RECENT_HALF_LIFE),
        ("recent_log", "<f8"),  # of the same times log(1 + amount),
        ("recent_square", "<f8"),  # and times its square
        ("hour_cos", "<f8"),  # sums over payments of the clock angle, UTC
        ("hour_sin", "<f8"),
        ("geo_time", "<i8"),
        ("latitude", "<f4"),  # degrees, of the payment at geo_time
        ("longitude", "<f4"),
        ("day_head", "<i4"),  # newest daily tile, days since 1970
        ("ring_head", "<i4"),  # where the next payment goes
        ("hour_count", "<u4", (HOURS,)),  # tile h lies at h % HOURS
        ("hour_sum", "<f4", (HOURS,)),
        ("day_count", "<u4", (DAYS,)),
        ("day_sum", "<f4", (DAYS,)),
        ("ring_time", "<i8", (RING_SIZE,)),
        ("ring_id", "<u8", (RING_SIZE,)),
        ("ring_amount", "<f4", (RING_SIZE,)),
        ("ring_merchant", "<u4", (RING_SIZE,)),
        ("ring_place", "<u4", (RING_SIZE,)),
        ("merchants", "<u8", (MERCHANT_BITS // 64,)),
        ("places", "<u8", (PLACE_BITS // 64,)),
        ("methods", "<u8", (METHOD_BITS // 64,)),
        ("devices", "<u8", (DEVICE_BITS // 64,)),
        # From here on a fold reads nothing, or next to nothing.
        ("ring_payload", "<u8", (RING_SIZE,)),
        ("ring_method", "<u2", (RING_SIZE,)),
    ]
)
STATE_BYTES = STATE_DTYPE.itemsize
HOT_BYTES: int = STATE_DTYPE.fields["ring_payload"][1]  # type: ignore[index]  # a structured type has fields
_CHECKSUM_WORD = 1  # where the checksum lies in a record, in words of 8 bytes; it covers all the others

States = npt.NDArray[np.void]


def empty(users: npt.NDArray[np.uint64]) -> States:
    """One fresh record per user hash: no history, nothing folded yet."""
    states = np.zeros(len(users), STATE_DTYPE)
    states["magic"] = MAGIC
    states["layout"] = LAYOUT
    states["user"] = users
    states["partition"] = -1
    states["offset"] = -1
    return states


@part
def _mix(h: Any, word: Any) -> Any:
    h = (h ^ word) * np.uint64(0xFF51AFD7ED558CCD)
    return h ^ (h >> np.uint64(32))


@entry
def _checksums(words: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
    """64-bit multiply-xor over the words of each record but its checksum; notices any single changed word.

    Four sums take every fourth word, as each step of one waits for its last. Every step can be undone given
    the word, so two records that differ in one word never meet.
    """
    prime = np.uint64(0xFF51AFD7ED558CCD)
    size = words.shape[1]
    for row in range(words.shape[0]):
        a, b, c, d = words[row, 0] * prime, prime, ~prime, prime << np.uint64(1)
        for at in range(_CHECKSUM_WORD + 1, size - 3, 4):
            a = _mix(a, words[row, at])
            b = _mix(b, words[row, at + 1])
            c = _mix(c, words[row, at + 2])
            d = _mix(d, words[row, at + 3])
        for at in range(size - (size - _CHECKSUM_WORD - 1) % 4, size):
            a = _mix(a, words[row, at])
        out[row] = _mix(_mix(_mix(a, b), c), d)


def checksums(states: States) -> npt.NDArray[np.uint64]:
    """Of records of any layout: all are whole words, with the checksum in the same one."""
    words = np.ascontiguousarray(states).view(np.uint64).reshape(len(states), states.dtype.itemsize // 8)
    out = np.empty(len(states), np.uint64)
    _checksums(words, out)
    return out


def seal(states: States) -> None:
    """Write each record's checksum, in place: the last thing before a record leaves the process."""
    states["checksum"] = checksums(states)


def check(states: States, users: npt.NDArray[np.uint64], layout: int = LAYOUT) -> None:
    """Refuse records that are not ours to fold; `layout` is another one's number where records are of a former one.

    Raises StateCorrupt naming the first bad row and what is wrong with it.
    """
    for what, bad in (
        ("magic", states["magic"] != MAGIC),
        ("layout version", states["layout"] != layout),
        ("owner", states["user"] != users),
        ("checksum", states["checksum"] != checksums(states)),
        ("ring position", (states["ring_head"] < 0) | (states["ring_head"] >= RING_SIZE)),
    ):
        if bad.any():
            raise StateCorrupt(f"state record {int(bad.argmax())} of {len(states)} has a wrong {what}")
