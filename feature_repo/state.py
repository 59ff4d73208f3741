"""The user state: one fixed-size record of 2,048 bytes per user, everything the kernel remembers.

The record is what Redis stores, byte for byte. Its header lets a reader refuse garbage before compiled
code touches it: magic, layout version, owner and a checksum of the rest.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from feature_repo.errors import StateCorrupt
from feature_repo.features import RING_SIZE

MAGIC = 0x4C474956  # "VIGL", little endian
LAYOUT = 1
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
        ("ring_payload", "<u8", (RING_SIZE,)),
        ("ring_amount", "<f4", (RING_SIZE,)),
        ("ring_merchant", "<u4", (RING_SIZE,)),
        ("ring_place", "<u4", (RING_SIZE,)),
        ("ring_method", "<u2", (RING_SIZE,)),
        ("ring_device", "<u2", (RING_SIZE,)),
        ("merchants", "<u8", (MERCHANT_BITS // 64,)),
        ("places", "<u8", (PLACE_BITS // 64,)),
        ("methods", "<u8", (METHOD_BITS // 64,)),
        ("devices", "<u8", (DEVICE_BITS // 64,)),
    ]
)
STATE_BYTES = STATE_DTYPE.itemsize
CHECKSUM_FROM = 16  # the checksum covers every byte after itself

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


def unpack(values: Sequence[bytes]) -> States:
    """Stored records as one read-only array, not yet checked. Raises StateCorrupt on a wrong length."""
    for row, value in enumerate(values):
        if len(value) != STATE_BYTES:
            raise StateCorrupt(f"state record {row} of {len(values)} has {len(value)} bytes, not {STATE_BYTES}")
    return np.frombuffer(b"".join(values), STATE_DTYPE)


@numba.njit(cache=True, nogil=True, inline="never")
def _checksum(raw: npt.NDArray[np.uint8], row: int) -> Any:
    """64-bit multiply-xor over the 8-byte words of one record; notices any single flipped byte."""
    h = np.uint64(0x9E3779B97F4A7C15)
    for word in range(CHECKSUM_FROM // 8, raw.shape[1] // 8):
        value = np.uint64(0)
        for byte in range(8):
            value |= np.uint64(raw[row, word * 8 + byte]) << np.uint64(8 * byte)
        h = (h ^ value) * np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> np.uint64(32)
    return h


@numba.njit(cache=True, nogil=True)
def _checksums(raw: npt.NDArray[np.uint8], out: npt.NDArray[np.uint64]) -> None:
    for row in range(raw.shape[0]):
        out[row] = _checksum(raw, row)


def _raw(states: States) -> npt.NDArray[np.uint8]:
    return states.view(np.uint8).reshape(len(states), STATE_BYTES)


def checksums(states: States) -> npt.NDArray[np.uint64]:
    out = np.empty(len(states), np.uint64)
    _checksums(_raw(states), out)
    return out


def seal(states: States) -> None:
    """Write each record's checksum, in place: the last thing before a record leaves the process."""
    states["checksum"] = checksums(states)


def check(states: States, users: npt.NDArray[np.uint64]) -> None:
    """Refuse records that are not ours to fold.

    Raises StateCorrupt naming the first bad row and what is wrong with it.
    """
    for what, bad in (
        ("magic", states["magic"] != MAGIC),
        ("layout version", states["layout"] != LAYOUT),
        ("owner", states["user"] != users),
        ("checksum", states["checksum"] != checksums(states)),
        ("ring position", (states["ring_head"] < 0) | (states["ring_head"] >= RING_SIZE)),
    ):
        if bad.any():
            raise StateCorrupt(f"state record {int(bad.argmax())} of {len(states)} has a wrong {what}")
