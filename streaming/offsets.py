"""Which offsets a micro-batch covers: Spark's plan, as its checkpoint has it.

Spark decides what a batch holds and writes that down before it hands the batch over. The records themselves never
pass through it: each task reads its range from Kafka (`reader`).
"""

import json
from pathlib import Path
from typing import NamedTuple

from feature_repo.errors import StreamStopped

VERSION = "v1"  # of Spark's offset log: this line, in `offsets` one of metadata, one for each source


class OffsetRange(NamedTuple):
    """Offsets `first` to before `until` of a partition; some of them may hold no record."""

    partition: int
    first: int
    until: int


def planned(checkpoint: Path, topic: str, number: int) -> list[OffsetRange]:
    """The ranges of batch `number`, at least one offset each; none where there is nothing to read.

    Raises StreamStopped where the checkpoint is spoilt, or the topic is no longer the one that was read.
    """
    until = _offsets(checkpoint / "offsets" / str(number), topic)
    before = checkpoint / "offsets" / str(number - 1) if number else checkpoint / "sources" / "0" / "0"
    first = _offsets(before, topic)
    ranges = [OffsetRange(partition, first.get(partition, 0), end) for partition, end in sorted(until.items())]
    if any(each.first > each.until for each in ranges):
        raise StreamStopped(f"topic {topic} ends before what was read of it: it was made again, or cut short")
    return [each for each in ranges if each.first < each.until]


def _offsets(file: Path, topic: str) -> dict[int, int]:
    try:
        version, *_, last = file.read_text().lstrip("\0").splitlines()  # where a query began, a zero stands before it
        if version != VERSION:
            raise ValueError(f"version {version}")
        return {int(partition): int(offset) for partition, offset in json.loads(last)[topic].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StreamStopped(f"its checkpoint cannot be read: {file.name} of {file.parent.name} ({error!r})") from error
