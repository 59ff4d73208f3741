"""What a key may do. Each path declares one of these; nothing else opens it."""

from enum import StrEnum
from typing import Final, Literal


class Scope(StrEnum):
    INGEST = "ingest"
    READ = "read"
    SEARCH = "search"
    LABELS = "labels"
    PROMOTE = "models:promote"
    ADMIN = "admin"  # every other one as well


PUBLIC: Final = None  # declared in place of a scope: answered without a key
ANY_KEY: Final = "any"  # for every good key, whatever it may do: what is behind asks for scopes itself

Needs = Scope | Literal["any"] | None
