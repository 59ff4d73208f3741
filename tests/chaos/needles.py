"""What must be found nowhere: card numbers and secrets."""

import re
from collections.abc import Iterable

from tests.chaos.load import CANARIES

LEAKS_KEPT = 20


class Needles:
    """What must be found nowhere: the canary card numbers however they are spelled, and secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        cards = [rb"[ -]?".join(re.findall(rb"\d", card.encode())) for card in CANARIES]
        self._pattern = re.compile(b"|".join([*cards, *(re.escape(secret.encode()) for secret in secrets)]))
        self.leaks: list[str] = []

    def found(self, content: bytes) -> bool:
        return self._pattern.search(content) is not None

    def look(self, where: str, content: bytes) -> None:
        """Notes where something was found, not what."""
        if self.found(content) and len(self.leaks) < LEAKS_KEPT:
            self.leaks.append(where)
