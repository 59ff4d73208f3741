"""User states in Redis: loaded and saved in bulk, guarded by a fence per partition.

All keys of a partition share one hash tag, so that the transaction of `save` also holds in Redis Cluster.
"""

from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import redis

from feature_repo import state
from feature_repo.errors import DependencyDown, Fenced, StateCorrupt
from feature_repo.keys import fence_key, folded_key, state_keys
from feature_repo.state import STATE_BYTES, STATE_DTYPE, States

KEYS_PER_COMMAND = 5_000  # 10 MB of records: a single larger command would block other clients too long


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

        Where nothing of the partition was ever committed (`untouched`) it is written as 0 first: a crash
        between the very first commit and its save then looks like any other.
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

    def load(self, partition: int, users: list[str], hashes: npt.NDArray[np.uint64]) -> States:
        """One checked record per user, fresh ones for users never seen. Raises StateCorrupt."""
        found: list[bytes | None] = []
        keys = state_keys(users, partition)
        try:
            for start in range(0, len(keys), KEYS_PER_COMMAND):
                found += cast(list[bytes | None], self._redis.mget(keys[start : start + KEYS_PER_COMMAND]))
        except redis.RedisError as error:
            raise self._down(error) from error
        return assemble(found, hashes)

    def save(self, partition: int, attempt: str, users: list[str], states: States, folded_until: int) -> None:
        """Write records and `folded_until` together, only where the fence is still ours.

        The records are sealed here. Raises Fenced when another attempt claimed the partition: nothing is
        written then, also when that happens while we write.
        """
        state.seal(states)
        raw = memoryview(states.tobytes())
        keys = state_keys(users, partition)
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.watch(fence_key(partition))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                if pipe.get(fence_key(partition)) != attempt.encode():
                    raise Fenced(partition)
                pipe.multi()
                for start in range(0, len(keys), KEYS_PER_COMMAND):
                    stop = min(start + KEYS_PER_COMMAND, len(keys))
                    pipe.mset({keys[i]: raw[i * STATE_BYTES : (i + 1) * STATE_BYTES] for i in range(start, stop)})
                pipe.set(folded_key(partition), folded_until)
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

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown("Redis", self._url.split("@")[-1].removeprefix("redis://"), str(error))


def assemble(found: list[bytes | None], hashes: npt.NDArray[np.uint64]) -> States:
    """Records read from Redis as one array: checked where found, fresh where missing."""
    states = state.empty(hashes)
    present = np.array([record is not None for record in found], np.bool_)
    if present.any():
        records = [record for record in found if record is not None]
        if any(len(record) != STATE_BYTES for record in records):
            raise StateCorrupt(f"a state record is not {STATE_BYTES} bytes long")
        loaded = np.frombuffer(bytearray().join(records), STATE_DTYPE)
        state.check(loaded, hashes[present])
        states[present] = loaded
    return states
