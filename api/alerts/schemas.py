"""Events of `GET /stream`, and where in topic `alerts` a reader stands."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from api.errors import CursorInvalid

_PLACES = re.compile(r"\d{1,5}-\d{1,18}(\.\d{1,5}-\d{1,18})*", re.ASCII)
MAX_CHARACTERS = 8_192

Places = dict[int, int]  # partition -> offset of the next alert that is not known yet


def written(places: Mapping[int, int]) -> str:
    """As an event id: PARTITION-OFFSET of every partition, dots between."""
    return ".".join(f"{partition}-{offset}" for partition, offset in sorted(places.items()))


def read(event_id: str) -> Places:
    """Raises CursorInvalid."""
    if len(event_id) > MAX_CHARACTERS or not _PLACES.fullmatch(event_id):
        raise CursorInvalid
    pairs = (place.split("-") for place in event_id.split("."))
    return {int(partition): int(offset) for partition, offset in pairs}


@dataclass(frozen=True)
class Event:
    """One alert; its id says where to go on behind it."""

    id: str
    data: bytes

    def sent(self) -> bytes:
        return b"id: %s\nevent: alert\ndata: %s\n\n" % (self.id.encode(), self.data.replace(b"\n", b" "))
