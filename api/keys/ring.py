"""The keys in use, held by each worker: a request asks no store whether its key is good."""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Protocol

from api.keys import secret
from api.scopes import Scope
from feature_repo.errors import StoreUnavailable

log = logging.getLogger("vigil.api")

FRESH_S = 15.0  # a key revoked elsewhere works here no longer than this
OLD_S = 45.0  # with PostgreSQL away keys are trusted so long: together under a minute
NEW_S = 1.0  # how soon an unknown key is looked for again: one made a moment ago is found
RETRY_S = 5.0


@dataclass(frozen=True)
class Key:
    """A key that was neither revoked nor expired when it was read."""

    id: str
    digest: bytes
    name: str
    scopes: frozenset[str]
    expires_at: datetime | None

    @property
    def actor(self) -> str:
        return f"{self.name} (key {self.id})"

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class Keys(Protocol):
    """Where keys are kept; blocks; raises StoreUnavailable."""

    def in_use(self) -> list[Key]: ...

    def note_use(self, used: dict[str, datetime]) -> None: ...


class KeyRing:
    """Reads all keys at most every FRESH_S, and notes then when each was last used."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = keys
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._read_at = self._failed_at = -inf
        self._used: dict[str, datetime] = {}
        self._lock = asyncio.Lock()

    async def find(self, text: str) -> Key | None:
        """The key, None where it is unknown, expired or revoked. Raises StoreUnavailable where nobody can tell."""
        offered = secret.split(text)
        if offered is None:
            return None
        identity, digest = offered
        if identity not in self._keys:
            await self.renew(NEW_S)
        elif self._age() > FRESH_S:
            await self.renew(FRESH_S)
        if self._age() > OLD_S:
            raise StoreUnavailable("PostgreSQL", "", "keys cannot be read")
        key, now = self._keys.get(identity), datetime.now(UTC)
        if key is None or not hmac.compare_digest(key.digest, digest) or key.expired(now):
            return None
        self._used[identity] = now
        return key

    async def still_good(self, identity: str) -> bool:
        """Whether a key that `find` gave is neither revoked nor expired since; False also where nobody can tell."""
        if self._age() > FRESH_S:
            await self.renew(FRESH_S)
        key = self._keys.get(identity)
        return self._age() <= OLD_S and key is not None and not key.expired(datetime.now(UTC))

    async def renew(self, older_than_s: float = 0.0) -> None:
        """Read the keys again where the last reading is older. What fails is logged, and tried again RETRY_S later."""
        async with self._lock:
            began = self._clock()
            if self._age() <= older_than_s or began - self._failed_at < RETRY_S:
                return  # another request was faster
            used, self._used = self._used, {}
            try:
                found = await asyncio.to_thread(self._exchange, used)
            except StoreUnavailable as error:
                self._used = used | self._used
                self._failed_at = self._clock()
                log.warning("keys cannot be read: %s", error)
                return
            self._keys = {key.id: key for key in found}
            self._read_at = began

    async def keep(self) -> None:
        """Until cancelled: a use is noted within FRESH_S, also where no request follows."""
        while True:
            await asyncio.sleep(FRESH_S)
            await self.flush()

    async def flush(self) -> None:
        if self._used:
            await self.renew()

    def _exchange(self, used: dict[str, datetime]) -> list[Key]:
        if used:
            self._store.note_use(used)
        return self._store.in_use()

    def _age(self) -> float:
        return self._clock() - self._read_at
