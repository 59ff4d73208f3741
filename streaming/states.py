"""User states in Redis: loaded and saved in bulk, guarded by a fence per partition.

All keys of a partition share one hash tag, so that the transaction of `save` also holds in Redis Cluster.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import redis
from redis.client import Pipeline

from feature_repo import layouts, state
from feature_repo.errors import DependencyDown, Fenced
from feature_repo.keys import (
    check_placement,
    fence_key,
    folded_key,
    placement_key,
    state_key,
    state_keys,
    state_owner,
    states_pattern,
)
from feature_repo.state import STATE_BYTES, States

KEYS_PER_COMMAND = 5_000  # 10 MB of records: a single larger command would block other clients too long
KEYS_PER_SCAN = 1_000


class Size(NamedTuple):
    """Of the whole store, in keys and bytes; `limit` is where it refuses to grow, 0 for never."""

    keys: int
    bytes: int
    limit: int


class StateStore:
    """The states of one topic's users. Every method may raise DependencyDown when Redis does not answer."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._url = url
        self._redis = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)

    def claim(self, partition: int, attempt: str, *, untouched: bool) -> int | None:
        """Raise our fence over the partition; returns `folded_until`, None where Redis has lost it.

        Where the partition never held a state (`untouched`) it is written as 0 first: a crash between the very
        first commit and its save then looks like any other.
        """
        try:
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(fence_key(partition), attempt)
            if untouched:
                pipe.set(folded_key(partition), 0, nx=True)
            pipe.get(folded_key(partition))
            folded = pipe.execute()[-1]
        except redis.RedisError as error:
            raise self._down(error) from error
        return None if folded is None else int(folded)

    def folded(self, partition: int) -> int | None:
        """`folded_until` of a partition without touching its fence."""
        try:
            folded = self._redis.get(folded_key(partition))
        except redis.RedisError as error:
            raise self._down(error) from error
        return None if folded is None else int(cast(bytes, folded))

    def load(self, partition: int, attempt: str, users: list[str], hashes: npt.NDArray[np.uint64]) -> States:
        """One checked record per user, fresh ones for users never seen. Raises StateCorrupt.

        Each command reads the fence along with the records: a Redis that was emptied since the claim has no user it
        knows, and nobody is scored from that. Raises Fenced where it is another's, as after an older snapshot.
        """
        found: list[bytes | None] = []
        keys, fence = state_keys(users, partition), fence_key(partition)
        for start in range(0, len(keys), KEYS_PER_COMMAND):
            try:
                *records, holder = cast(
                    list[bytes | None], self._redis.mget([*keys[start : start + KEYS_PER_COMMAND], fence])
                )
            except redis.RedisError as error:
                raise self._down(error) from error
            if holder is None:
                raise self._down("it lost what it held since the partition was claimed")
            if holder != attempt.encode():
                raise Fenced(partition)
            found += records
        return assemble(found, hashes)

    def save(self, partition: int, attempt: str, users: list[str], states: States, folded_until: int) -> None:
        """Write records and `folded_until` together, only where the fence is still ours.

        The records are sealed here. Raises Fenced when another attempt claimed the partition: nothing is
        written then, also when that happens while we write.
        """
        state.seal(states)
        with self._fenced(partition, attempt) as pipe:
            for records in _in_commands(state_keys(users, partition), states):
                pipe.mset(records)
            pipe.set(folded_key(partition), folded_until)

    def confirm(self, partition: int, attempt: str) -> None:
        """Raises Fenced where another attempt claimed the partition since."""
        with self._fenced(partition, attempt):
            pass

    def replace(self, partition: int, attempt: str, users: list[str], states: States, folded_until: int) -> None:
        """Put other records in the place of all of a partition's; sealed here, raises Fenced as `save` does.

        Begins by deleting `folded_until` and ends by writing it: what is broken off between is STATE_LOST.
        """
        state.seal(states)
        with self._fenced(partition, attempt) as pipe:
            pipe.delete(folded_key(partition))
        for keys in self._scan(states_pattern(partition)):
            with self._fenced(partition, attempt) as pipe:
                pipe.unlink(*keys)
        for records in _in_commands(state_keys(users, partition), states):
            with self._fenced(partition, attempt) as pipe:
                pipe.mset(records)
        with self._fenced(partition, attempt) as pipe:
            pipe.set(folded_key(partition), folded_until)

    def move(self, source: int, target: int, attempt: str, users: list[str], values: list[bytes]) -> None:
        """Put records of one partition into another; the attempt has claimed both. Raises Fenced.

        Cut off between the two steps they lie in both: moving them again ends it.
        """
        with self._fenced(target, attempt) as pipe:
            pipe.mset(dict(zip(state_keys(users, target), values, strict=True)))
        self.drop(source, attempt, users)

    def drop(self, partition: int, attempt: str, users: list[str]) -> None:
        """Delete records of a partition the attempt has claimed. Raises Fenced."""
        with self._fenced(partition, attempt) as pipe:
            pipe.unlink(*state_keys(users, partition))

    def mark_placement(self, partitions: Iterable[int], placement: str) -> None:
        """Note beside the states how their users were placed, for readers whose settings may be others."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            for partition in partitions:
                pipe.set(placement_key(partition), placement)
            pipe.execute()
        except redis.RedisError as error:
            raise self._down(error) from error

    def raw(self, partition: int, user: str, placement: str) -> bytes | None:
        """One record as it is stored, None where there is none. Raises PlacementDiffers, GrowthUnfinished."""
        try:
            keys = [placement_key(partition), state_key(user, partition)]
            noted, record = cast(list[bytes | None], self._redis.mget(keys))
        except redis.RedisError as error:
            raise self._down(error) from error
        check_placement(noted, placement)
        return record

    def records(self) -> Iterator[tuple[int, list[str], list[bytes]]]:
        """Every record there is all the while, as it is when it is read: partition, users and raw records.

        What comes or goes meanwhile may be among them or not; a record may come twice.
        """
        for keys in self._scan(states_pattern()):
            try:
                values = cast(list[bytes | None], self._redis.mget(keys))
            except redis.RedisError as error:
                raise self._down(error) from error
            found: dict[int, tuple[list[str], list[bytes]]] = {}
            for key, value in zip(keys, values, strict=True):
                if value is not None:
                    partition, user = state_owner(key)
                    users, records = found.setdefault(partition, ([], []))
                    users.append(user)
                    records.append(value)
            for partition, (users, records) in found.items():
                yield partition, users, records

    def sizes(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Bytes of every record, in pieces of one partition each."""
        for keys in self._scan(states_pattern()):
            try:
                pipe = self._redis.pipeline(transaction=False)
                for key in keys:
                    pipe.strlen(key)
                lengths = np.array(pipe.execute(), np.int64)
            except redis.RedisError as error:
                raise self._down(error) from error
            partitions = np.array([state_owner(key)[0] for key in keys])
            for partition in np.unique(partitions).tolist():
                yield partition, lengths[partitions == partition]

    def forget(self, partition: int, users: list[str], values: list[bytes]) -> int:
        """Delete records that are still what was read before; returns how many.

        Where one of them is written at this very moment all stay, for another time.
        """
        keys = state_keys(users, partition)
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.watch(*keys)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                now = cast(list[bytes | None], pipe.mget(keys))
                same = [key for key, value, read in zip(keys, now, values, strict=True) if value == read]
                pipe.multi()
                if same:
                    pipe.unlink(*same)
                pipe.execute()
                return len(same)
        except redis.WatchError:
            return 0
        except redis.RedisError as error:
            raise self._down(error) from error

    def close(self) -> None:
        self._redis.close()

    def _scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """Keys in pieces of about KEYS_PER_SCAN; Redis answers others between two of them."""
        cursor = 0
        while True:
            try:
                cursor, keys = cast(tuple[int, list[bytes]], self._redis.scan(cursor, pattern, KEYS_PER_SCAN))
            except redis.RedisError as error:
                raise self._down(error) from error
            if keys:
                yield keys
            if not cursor:
                return

    @contextmanager
    def _fenced(self, partition: int, attempt: str) -> Iterator[Pipeline]:
        """A transaction that runs as the block ends, and only while the fence is ours. Raises Fenced."""
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.watch(fence_key(partition))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                if pipe.get(fence_key(partition)) != attempt.encode():
                    raise Fenced(partition)
                pipe.multi()
                yield pipe
                pipe.execute()
        except redis.WatchError as error:
            raise Fenced(partition) from error
        except redis.RedisError as error:
            raise self._down(error) from error

    def size(self) -> Size:
        """Costs nothing: Redis counts as it goes."""
        try:
            memory = cast(dict[str, int], self._redis.info("memory"))
            return Size(int(cast(int, self._redis.dbsize())), memory["used_memory"], memory["maxmemory"])
        except redis.RedisError as error:
            raise self._down(error) from error

    def _down(self, error: Exception | str) -> DependencyDown:
        return DependencyDown("Redis", self._url.split("@")[-1].removeprefix("redis://"), str(error))


def _in_commands(keys: list[bytes], states: States) -> Iterator[dict[bytes, memoryview]]:
    """Sealed records by key, in pieces of one command each."""
    for start in range(0, len(keys), KEYS_PER_COMMAND):
        some = keys[start : start + KEYS_PER_COMMAND]
        raw = memoryview(states[start : start + len(some)].tobytes())
        yield {key: raw[i * STATE_BYTES : (i + 1) * STATE_BYTES] for i, key in enumerate(some)}


def assemble(found: list[bytes | None], hashes: npt.NDArray[np.uint64]) -> States:
    """Records read from Redis as one array: checked where found, fresh where missing."""
    states = state.empty(hashes)
    present = np.array([record is not None for record in found], np.bool_)
    if present.any():
        states[present] = layouts.read([record for record in found if record is not None], hashes[present])
    return states
