"""What a key may do. Each path declares one of these; nothing else opens it."""

from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    INGEST = "ingest"
    READ = "read"
    SEARCH = "search"
    LABELS = "labels"
    PROMOTE = "models:promote"
    ADMIN = "admin"  # every other one as well


PUBLIC: Final = None  # declared in place of a scope: answered without a key
