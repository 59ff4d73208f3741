"""What each worker holds, told to the others through Redis.

The challenger is named to the stream once every living worker has loaded it, whichever of them is asked. A worker's
note expires by itself, so a worker that died stops counting after `EXPIRY_S`.
"""

import json
import logging
import os
import socket
from datetime import UTC, datetime
from typing import cast

import redis

from serving.registry import Held

log = logging.getLogger("vigil.serving.report")

WORKERS = "vigil:serving"  # names of the workers of all services
KEY_PREFIX = "vigil:serving:"
EVERY_S = 2.0
EXPIRY_S = 10
TIMEOUT_S = 1.0


class Report:
    """One worker's note, and what those of the others say."""

    def __init__(self, redis_url: str, serving_url: str) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._url = serving_url
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._failing = False

    def write(self, held: Held) -> None:
        """Renew the note. Redis being away is logged once: the worker serves on without it."""
        try:
            self._redis.set(KEY_PREFIX + self.worker, self._note(held), ex=EXPIRY_S)
            self._redis.sadd(WORKERS, self.worker)
            self._failing = False
        except redis.RedisError as error:
            if not self._failing:
                log.warning("Redis does not take this worker's report: %s", error)
            self._failing = True

    def everywhere(self, version: str) -> bool:
        """Whether every living worker of this service holds the version. With Redis away nobody can say: True.

        A worker that begins counts from its first note on.
        """
        try:
            names = sorted(cast(set[bytes], self._redis.smembers(WORKERS)))
            notes = cast(list[bytes | None], self._redis.mget([KEY_PREFIX.encode() + name for name in names] or ["-"]))
            gone = [name for name, note in zip(names, notes, strict=False) if note is None]
            if gone:
                self._redis.srem(WORKERS, *gone)
        except redis.RedisError:
            return True
        living = [json.loads(note) for note in notes if note is not None]
        return all(
            any(model["version"] == version for model in note["loaded"]) for note in living if note["url"] == self._url
        )

    def withdraw(self) -> None:
        """The worker stops: nobody should wait for the note to expire."""
        try:
            self._redis.srem(WORKERS, self.worker)
            self._redis.delete(KEY_PREFIX + self.worker)
        except redis.RedisError as error:
            log.warning("the report stays until it expires: %s", error)
        self._redis.close()

    def _note(self, held: Held) -> str:
        return json.dumps(
            {
                "worker": self.worker,
                "url": self._url,
                "champion": held.champion.version if held.champion is not None else None,
                "challenger": held.challenger.version if held.challenger is not None else None,
                "loaded": [
                    {
                        "version": model.version,
                        "feature_set_id": model.manifest.feature_set_id,
                        "artifact_sha256": model.sha256,
                    }
                    for model in held.loaded
                ],
                "at": datetime.now(UTC).isoformat(),
            }
        )
