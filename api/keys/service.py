"""Makes, lists and revokes keys."""

from collections.abc import Callable
from datetime import datetime

from api.errors import ExpiryPassed, KeyUnknown
from api.keys import secret
from api.keys.repository import KeyRepository
from api.keys.schemas import KeyBody, KeyMade, Keys, KeyShown


class KeyService:
    def __init__(self, repository: KeyRepository, now: Callable[[], datetime]) -> None:
        self._repository = repository
        self._now = now

    def create(self, body: KeyBody, actor: str) -> KeyMade:
        """The only time the key itself is told. Raises ExpiryPassed."""
        if body.expires_at is not None and body.expires_at <= self._now():
            raise ExpiryPassed
        identity, text, digest = secret.make()
        row = self._repository.add(identity, digest, body.name, sorted(set(body.scopes)), body.expires_at, actor)
        return KeyMade(**row, key=text)

    def list(self) -> Keys:
        return Keys(items=[KeyShown(**row) for row in self._repository.all()])

    def revoke(self, identity: str, actor: str) -> KeyShown:
        """Raises KeyUnknown."""
        row = self._repository.revoke(identity, actor)
        if row is None:
            raise KeyUnknown
        return KeyShown(**row)
