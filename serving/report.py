"""What each worker holds, told to the stream through Redis.

The stream pins a batch to a version that every living worker has loaded. A worker's note expires by
itself, so a worker that died stops counting after `EXPIRY_S`.
"""

import json
import logging
import os
import socket
from datetime import UTC, datetime

import redis

from serving.registry import Held

log = logging.getLogger("vigil.serving.report")

KEY_PREFIX = "vigil:serving:"
EVERY_S = 2.0
EXPIRY_S = 10
TIMEOUT_S = 1.0


class Report:
    """One worker's note. For one thread."""

    def __init__(self, redis_url: str, serving_url: str) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._url = serving_url
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._failing = False

    def write(self, held: Held) -> None:
        """Renew the note. Redis being away is logged once: the worker serves on without it."""
        try:
            self._redis.set(KEY_PREFIX + self.worker, self._note(held), ex=EXPIRY_S)
            self._failing = False
        except redis.RedisError as error:
            if not self._failing:
                log.warning("Redis does not take this worker's report: %s", error)
            self._failing = True

    def withdraw(self) -> None:
        """The worker stops: nobody should wait for the note to expire."""
        try:
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
