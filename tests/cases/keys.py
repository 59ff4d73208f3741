"""Keys without PostgreSQL: for tests of the gate that need no server."""

from datetime import datetime

from api.keys import secret
from api.keys.ring import Key
from feature_repo.errors import StoreUnavailable


class MemoryKeys:
    """A store of keys; `down` is PostgreSQL being away."""

    def __init__(self) -> None:
        self.kept: dict[str, Key] = {}
        self.used: list[dict[str, datetime]] = []
        self.readings = 0
        self.down = False

    def make(self, *scopes: str, expires_at: datetime | None = None) -> str:
        """A key's text."""
        identity, text, digest = secret.make()
        self.kept[identity] = Key(identity, digest, "-".join(scopes), frozenset(scopes), expires_at)
        return text

    def in_use(self) -> list[Key]:
        self._require_up()
        self.readings += 1
        return list(self.kept.values())

    def note_use(self, used: dict[str, datetime]) -> None:
        self._require_up()
        self.used.append(used)

    def _require_up(self) -> None:
        if self.down:
            raise StoreUnavailable("PostgreSQL", "here", "switched off by the test")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}
