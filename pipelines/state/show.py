"""What there is: one user's record decoded, and how many and how large all of them are."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from math import log
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import layouts
from feature_repo.activity import readable
from feature_repo.errors import StateUnknown
from feature_repo.features import RING_SIZE
from feature_repo.hashing import hash_texts, partitions_of
from feature_repo.settings import Settings
from feature_repo.state import DAYS, HOURS
from feature_repo.transaction import rfc3339
from streaming.states import StateStore

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PROBES = 4  # of a Bloom filter, sketches.remember
FILTERS = ("merchants", "places", "methods", "devices")


@dataclass(frozen=True)
class Record:
    """One user's state. `known` estimates how many different ones its filters hold; ring and tiles newest first."""

    user_id: str
    partition: int  # where the user's payments lie
    layout: int  # as stored; an older one is carried over when it is next read
    bytes: int
    aggregates: dict[str, Any]
    known: dict[str, int]
    hours: list[tuple[str, int, float]]  # beginning, payments, sum of amounts; only tiles that are not empty
    days: list[tuple[str, int, float]]
    ring: list[dict[str, Any]]  # the last payments, without ids: the record has only hashes of them

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Sizes:
    """How many records there are and how large, by partition and in all; `memory` is what Redis uses for everything."""

    records: dict[int, int] = field(default_factory=dict)
    bytes: dict[int, int] = field(default_factory=dict)
    largest: int = 0
    memory: int = 0

    def as_json(self) -> dict[str, Any]:
        total = {"records": sum(self.records.values()), "bytes": sum(self.bytes.values())}
        return total | {"largest": self.largest, "memory": self.memory, "partitions": self._partitions()}

    def _partitions(self) -> Mapping[str, Any]:
        return {
            str(partition): {"records": self.records[partition], "bytes": self.bytes[partition]}
            for partition in sorted(self.records)
        }


def show(settings: Settings, user: str) -> Record:
    """Raises StateUnknown, StateCorrupt, PlacementDiffers, GrowthUnfinished, DependencyDown."""
    ids = pa.array([user], pa.string())
    partition = int(partitions_of(ids, settings.partitions, murmur2=settings.murmur2)[0])
    with closing(StateStore(settings.redis_url)) as store:
        raw = store.raw(partition, user, settings.placement)
    if raw is None:
        raise StateUnknown(user)
    return decoded(user, partition, raw)


def decoded(user: str, partition: int, raw: bytes) -> Record:
    """Raises StateCorrupt."""
    states = layouts.read([raw], hash_texts(pa.array([user], pa.string()), "user_id"))
    one = states[0]
    return Record(
        user_id=user,
        partition=partition,
        layout=int(np.frombuffer(raw, layouts.HEADER, 1)["layout"][0]),
        bytes=len(raw),
        aggregates=readable(states),
        known={name: _distinct(one[name]) for name in FILTERS},
        hours=_tiles(one["hour_count"], one["hour_sum"], int(one["hour_head"]), HOURS, timedelta(hours=1)),
        days=_tiles(one["day_count"], one["day_sum"], int(one["day_head"]), DAYS, timedelta(days=1)),
        ring=_ring(one),
    )


def sizes(settings: Settings) -> Sizes:
    """Looks at every key once, in small pieces. Raises DependencyDown."""
    records: Counter[int] = Counter()
    total: Counter[int] = Counter()
    largest = 0
    with closing(StateStore(settings.redis_url)) as store:
        for partition, lengths in store.sizes():
            records[partition] += len(lengths)
            total[partition] += int(lengths.sum())
            largest = max(largest, int(lengths.max()))
        return Sizes(dict(records), dict(total), largest, store.size().bytes)


def _distinct(bits: np.ndarray[Any, Any]) -> int:
    """How many different values a Bloom filter was shown, by its share of set bits (Swamidass and Baldi 2007)."""
    size = bits.size * 64
    ones = min(int(np.bitwise_count(bits).sum()), size - 1)
    return round(-size / PROBES * log(1 - ones / size))


def _tiles(
    counts: np.ndarray[Any, Any], sums: np.ndarray[Any, Any], head: int, size: int, width: timedelta
) -> list[tuple[str, int, float]]:
    return [
        (rfc3339(EPOCH + tile * width), int(counts[tile % size]), float(sums[tile % size]))
        for tile in range(head, head - size, -1)
        if counts[tile % size]
    ]


def _ring(one: np.void) -> list[dict[str, Any]]:
    """Merchants and places by the first digits of their hashes: enough to see which payments share one."""
    held = min(int(one["count"]), RING_SIZE)
    places = [(int(one["ring_head"]) - 1 - back) % RING_SIZE for back in range(held)]
    return [
        {
            "time": _time(int(one["ring_time"][at])),
            "amount": float(one["ring_amount"][at]),
            "merchant": f"{one['ring_merchant'][at]:08x}",
            "location": f"{one['ring_place'][at]:08x}",
            "payment_method": f"{one['ring_method'][at]:04x}",
        }
        for at in places
    ]


def _time(micros: int) -> str:
    return rfc3339(EPOCH + timedelta(microseconds=micros))
