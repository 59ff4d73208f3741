"""The current snapshot of merchants in Redis: its bytes under its id, and a pointer that says which is current.

Every one that ever was is in PostgreSQL, table merchant_snapshots, where `pipelines.online` puts it first.

Readers ask for the pointer once per batch or payment and keep the snapshot it names; a snapshot never
changes under its id.
"""

from typing import cast

import redis

from feature_repo.errors import DependencyDown, SnapshotUnreadable
from feature_repo.keys import CURRENT_SNAPSHOT, snapshot_key
from feature_repo.snapshot import Snapshot

REPLACED_FOR_S = 3_600  # a batch that began under the last snapshot may still read it


class SnapshotStore:
    """Every method may raise DependencyDown when Redis does not answer."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._url = url
        self._redis = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._held: Snapshot | None = None

    def publish(self, snapshot: Snapshot) -> None:
        """Make it the current one."""
        try:
            before = cast(bytes | None, self._redis.get(CURRENT_SNAPSHOT))
            pipe = self._redis.pipeline(transaction=False)
            pipe.set(snapshot_key(snapshot.id), snapshot.to_bytes())
            pipe.set(CURRENT_SNAPSHOT, snapshot.id)
            if before and before.decode() != snapshot.id:
                pipe.expire(snapshot_key(before.decode()), REPLACED_FOR_S)
            pipe.execute()
        except redis.RedisError as error:
            raise DependencyDown("Redis", self._address, str(error)) from error

    def current(self) -> str | None:
        """Id of the current snapshot; None where none was ever published."""
        try:
            named = cast(bytes | None, self._redis.get(CURRENT_SNAPSHOT))
        except redis.RedisError as error:
            raise DependencyDown("Redis", self._address, str(error)) from error
        return None if named is None else named.decode()

    def load(self, wanted: str | None) -> Snapshot | None:
        """The snapshot of an id, fetched once; None for None. Raises SnapshotUnreadable, never a neutral stand-in."""
        held = self._held  # read once: detection calls from several threads
        if wanted is None or (held is not None and held.id == wanted):
            return None if wanted is None else held
        try:
            raw = cast(bytes | None, self._redis.get(snapshot_key(wanted)))
        except redis.RedisError as error:
            raise DependencyDown("Redis", self._address, str(error)) from error
        if raw is None:
            raise SnapshotUnreadable(self._address, wanted, "there is nothing under its key")
        try:
            held = Snapshot.from_bytes(raw, wanted)
        except ValueError as error:
            raise SnapshotUnreadable(self._address, wanted, str(error)) from error
        self._held = held
        return held

    def newest(self) -> Snapshot | None:
        """The current snapshot; None where none was ever published."""
        return self.load(self.current())

    def close(self) -> None:
        self._redis.close()

    @property
    def _address(self) -> str:
        return self._url.split("@")[-1].removeprefix("redis://")
