"""Requests per minute, counted in Redis for all workers together."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError

log = logging.getLogger("vigil.api")

SHARES = 50  # a worker takes a fiftieth of a minute's requests at a time: one question to Redis, not one per request
REDIS_TIMEOUT_S = 0.25
REDIS_RETRY_S = 5.0  # how long a Redis that did not answer is left alone
KEPT = 10_000  # keys and addresses remembered; beyond that, those whose minute is over are forgotten


@dataclass
class Left:
    """What a request was told of its limit."""

    limit: int
    remaining: int
    resets_in_s: int
    refused: bool

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        values = {b"ratelimit-limit": self.limit, b"ratelimit-remaining": self.remaining}
        return [(name, b"%d" % value) for name, value in (values | {b"ratelimit-reset": self.resets_in_s}).items()]


@dataclass
class Share:
    """What a worker holds of one key's or address's minute."""

    left: int = 0
    elsewhere: int = 0  # not yet taken by any worker, when last asked
    ends: float = 0.0  # of the limiter's clock
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Counters:
    """Windows in Redis, and this process's own for while Redis is away."""

    def __init__(self, redis_url: str) -> None:
        storage = RedisStorage(
            f"async+{redis_url}",
            implementation="redispy",
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )
        self._shared = FixedWindowRateLimiter(storage)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._away_until = 0.0

    async def take(self, item: RateLimitItemPerMinute, identity: str, cost: int) -> tuple[bool, int, float]:
        """Whether `cost` requests may come, how many may after them, and in how many seconds the minute ends."""
        if time.monotonic() >= self._away_until:
            try:
                return await _take(self._shared, item, identity, cost)
            except (RedisError, OSError) as error:
                self._away_until = time.monotonic() + REDIS_RETRY_S
                log.warning("Redis does not answer, this process counts requests alone: %s", error)
        return await _take(self._own, item, identity, cost)


async def _take(
    counter: FixedWindowRateLimiter, item: RateLimitItemPerMinute, identity: str, cost: int
) -> tuple[bool, int, float]:
    granted = await counter.hit(item, identity, cost=cost)
    window = await counter.get_window_stats(item, identity)
    return granted, window.remaining, window.reset_time - time.time()


class RateLimiter:
    """So many requests per minute for each of a kind. With Redis away each worker holds the whole limit itself."""

    def __init__(
        self, counters: Counters, kind: str, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters = counters
        self._item = RateLimitItemPerMinute(per_minute, namespace=f"vigil:{kind}")
        self._cost = max(1, per_minute // SHARES)
        self._clock = clock
        self._shares: dict[str, Share] = {}

    async def take(self, identity: str) -> Left:
        """Count one request."""
        share = self._shares.get(identity) or self._new(identity)
        now = self._clock()
        if now >= share.ends or (share.left == 0 and share.elsewhere):
            async with share.lock:
                now = self._clock()
                if now >= share.ends or (share.left == 0 and share.elsewhere):
                    await self._fill(share, identity)
        refused = share.left == 0
        share.left -= not refused
        return Left(self._item.amount, share.left + share.elsewhere, max(1, round(share.ends - now)), refused)

    async def _fill(self, share: Share, identity: str) -> None:
        granted, remaining, seconds = await self._counters.take(self._item, identity, self._cost)
        share.left = self._cost if granted else 0
        share.elsewhere = remaining if granted else 0
        share.ends = self._clock() + max(seconds, 0.0)

    def _new(self, identity: str) -> Share:
        if len(self._shares) >= KEPT:
            now = self._clock()
            self._shares = {name: share for name, share in self._shares.items() if share.ends > now}
        return self._shares.setdefault(identity, Share())
