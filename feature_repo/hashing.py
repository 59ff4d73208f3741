"""64-bit hashes of the contract's text columns, and the Kafka partition of a user.

Hashes stand for ids, merchants and places inside the user state. They are SipHash-1-3 with one key per
column, so equal texts in different columns do not meet. Null text hashes to 0.
"""

from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.snapshot import MerchantLookup

U64 = np.uint64
_COLUMNS = (
    "transaction_id",
    "user_id",
    "merchant",
    "location",
    "payment_method",
    "currency",
    "merchant_category",
    "channel",
    "device_id",
)
# Numbers are compared as integers of so many decimals: 4 of an amount, 9 of a coordinate (a tenth of a millimetre).
_NUMBERS = ("amount", "latitude", "longitude")
_SCALES = np.array([1e4, 1e9, 1e9])


@dataclass(frozen=True)
class Events:
    """What the kernel reads of a batch of payments; every array has one entry per payment."""

    user: npt.NDArray[np.uint64]
    id: npt.NDArray[np.uint64]
    payload: npt.NDArray[np.uint64]  # of every field of the contract: equal payments hash equal
    time: npt.NDArray[np.int64]  # event time, microseconds since 1970 UTC
    amount: npt.NDArray[np.float64]
    merchant: npt.NDArray[np.uint64]
    place: npt.NDArray[np.uint64]
    method: npt.NDArray[np.uint64]
    device: npt.NDArray[np.uint64]  # 0 where none is named
    latitude: npt.NDArray[np.float64]  # NaN where unknown
    longitude: npt.NDArray[np.float64]
    merchant_stats: npt.NDArray[np.float32]  # [n, 4] the merchants' rows of a snapshot, columns snapshot.COLUMNS

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Events":
        """A copy of some payments: those at positions `rows`, in that order, or where a mask says so."""
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@numba.njit(inline="always")
def _rotl(x: int, bits: int) -> Any:
    return (x << U64(bits)) | (x >> U64(64 - bits))


@numba.njit(inline="always")
def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 += v1
    v1 = _rotl(v1, 13) ^ v0
    v0 = _rotl(v0, 32)
    v2 += v3
    v3 = _rotl(v3, 16) ^ v2
    v0 += v3
    v3 = _rotl(v3, 21) ^ v0
    v2 += v1
    v1 = _rotl(v1, 17) ^ v2
    v2 = _rotl(v2, 32)
    return v0, v1, v2, v3


@numba.njit(cache=True, nogil=True)
def siphash13(data: npt.NDArray[np.uint8], start: int, stop: int, key: int) -> Any:
    """SipHash-1-3 of data[start:stop] (Aumasson and Bernstein 2012), both key halves from `key`."""
    v0 = U64(key) ^ U64(0x736F6D6570736575)
    v1 = U64(key * U64(0x9E3779B97F4A7C15)) ^ U64(0x646F72616E646F6D)
    v2 = U64(key) ^ U64(0x6C7967656E657261)
    v3 = U64(key * U64(0x9E3779B97F4A7C15)) ^ U64(0x7465646279746573)
    at = start
    while at + 8 <= stop:
        word = U64(0)
        for byte in range(8):
            word |= U64(data[at + byte]) << U64(8 * byte)
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
        at += 8
    word = U64((stop - start) & 0xFF) << U64(56)
    for byte in range(stop - at):
        word |= U64(data[at + byte]) << U64(8 * byte)
    v3 ^= word
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= word
    v2 ^= U64(0xFF)
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@numba.njit(cache=True, nogil=True)
def _hash_column(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int32],
    valid: npt.NDArray[np.uint8],
    key: int,
    out: npt.NDArray[np.uint64],
) -> None:
    for row in range(out.shape[0]):
        out[row] = siphash13(data, np.int64(offsets[row]), np.int64(offsets[row + 1]), key) if valid[row] else U64(0)


@numba.njit(cache=True, nogil=True)
def _combine(
    texts: npt.NDArray[np.uint64],
    numbers: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
    time: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint64],
) -> None:
    """Order-dependent mix of every field of a payment into one hash."""
    prime = U64(0xFF51AFD7ED558CCD)
    for row in range(out.shape[0]):
        h = (U64(time[row]) ^ U64(0xC4CEB9FE1A85EC53)) * prime
        for column in range(texts.shape[0]):
            h = (_rotl(h, 29) ^ texts[column, row]) * prime
        for column in range(numbers.shape[0]):
            value = numbers[column, row]
            scaled = U64(np.int64(np.round(value * scales[column]))) if value == value else U64(0x8000000000000000)
            h = (_rotl(h, 29) ^ scaled) * prime
        out[row] = h ^ (h >> U64(32))


def text_buffers(
    column: pa.Array,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Bytes, offsets (n + 1) and validity (0 or 1 per row) of a string or binary column, without a copy."""
    n = len(column)
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + n + 1]
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    else:
        valid = np.ones(n, np.uint8)
    raw.flags.writeable = starts.flags.writeable = False  # so that compiled code is specialised once
    return raw, starts, valid


def hash_texts(column: pa.Array, purpose: str) -> npt.NDArray[np.uint64]:
    """Hash of each text of a string column; `purpose` names the column, so that columns do not meet."""
    out = np.empty(len(column), np.uint64)
    data, offsets, valid = text_buffers(column)
    _hash_column(data, offsets, valid, U64(_COLUMNS.index(purpose) + 1), out)
    return out


def events_of(payments: pa.RecordBatch, merchants: MerchantLookup) -> Events:
    """Columns of `transaction.SCHEMA` as the kernel's input, with what a snapshot knows of their merchants.

    `merchants` is Snapshot.look_up of the snapshot these payments use, no_snapshot where none was made.
    """
    hashes = np.empty((len(_COLUMNS), payments.num_rows), np.uint64)
    for position, name in enumerate(_COLUMNS):
        hashes[position] = hash_texts(payments.column(name), name)
    numbers = np.empty((len(_NUMBERS), payments.num_rows))
    for position, name in enumerate(_NUMBERS):
        numbers[position] = payments.column(name).to_numpy(zero_copy_only=False)
    time = payments.column("event_time").cast(pa.int64()).to_numpy()
    payload = np.empty(payments.num_rows, np.uint64)
    _combine(hashes, numbers, _SCALES, time, payload)
    text = dict(zip(_COLUMNS, hashes, strict=True))
    return Events(
        user=text["user_id"],
        id=text["transaction_id"],
        payload=payload,
        time=time,
        amount=numbers[0],
        merchant=text["merchant"],
        place=text["location"],
        method=text["payment_method"],
        device=text["device_id"],
        latitude=numbers[1],
        longitude=numbers[2],
        merchant_stats=merchants(text["merchant"]),
    )


# ---- Kafka partitions -------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _murmur2_partition(data: npt.NDArray[np.uint8], start: int, stop: int, partitions: int) -> Any:
    """Kafka's murmur2 (org.apache.kafka.common.utils.Utils.murmur2), positive, modulo the partitions."""
    m = np.uint32(0x5BD1E995)
    h = np.uint32(0x9747B28C) ^ np.uint32(stop - start)
    at = start
    while at + 4 <= stop:
        k = np.uint32(0)
        for byte in range(4):
            k |= np.uint32(np.uint32(data[at + byte]) << np.uint32(8 * byte))
        k = np.uint32(k * m)
        k ^= np.uint32(k >> np.uint32(24))
        k = np.uint32(k * m)
        h = np.uint32(np.uint32(h * m) ^ k)
        at += 4
    left = stop - at
    if left >= 3:
        h ^= np.uint32(np.uint32(data[at + 2]) << np.uint32(16))
    if left >= 2:
        h ^= np.uint32(np.uint32(data[at + 1]) << np.uint32(8))
    if left >= 1:
        h ^= np.uint32(data[at])
        h = np.uint32(h * m)
    h ^= np.uint32(h >> np.uint32(13))
    h = np.uint32(h * m)
    h ^= np.uint32(h >> np.uint32(15))
    return np.int32(np.int64(h & np.uint32(0x7FFFFFFF)) % partitions)


@numba.njit(cache=True, nogil=True)
def _crc32_partition(data: npt.NDArray[np.uint8], start: int, stop: int, partitions: int) -> Any:
    """librdkafka's `consistent` partitioner: CRC-32 (IEEE) modulo the partitions."""
    crc = np.uint32(0xFFFFFFFF)
    for at in range(start, stop):
        crc ^= np.uint32(data[at])
        for _ in range(8):
            crc = np.uint32(crc >> np.uint32(1)) ^ (np.uint32(0xEDB88320) if crc & np.uint32(1) else np.uint32(0))
    return np.int32(np.int64(crc ^ np.uint32(0xFFFFFFFF)) % partitions)


@numba.njit(cache=True, nogil=True)
def _partitions(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int32],
    partitions: int,
    murmur2: bool,
    out: npt.NDArray[np.int32],
) -> None:
    for row in range(out.shape[0]):
        start, stop = offsets[row], offsets[row + 1]
        if murmur2:
            out[row] = _murmur2_partition(data, start, stop, partitions)
        else:
            out[row] = _crc32_partition(data, start, stop, partitions)


def partitions_of(users: pa.Array, partitions: int, *, murmur2: bool = True) -> npt.NDArray[np.int32]:
    """The Kafka partition each user's payments belong to."""
    out = np.empty(len(users), np.int32)
    data, offsets, _ = text_buffers(users)
    _partitions(data, offsets, partitions, murmur2, out)
    return out
