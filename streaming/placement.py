"""How users are placed on the partitions of the payments topic, and since when.

States, features and offsets all rest on it, so PostgreSQL remembers every placement a topic had: a stream with other
settings refuses to start, and whoever folds the log again takes a user's payments from before a growth (`vigil topic
grow`) out of the partition they lay in then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor  # noqa: N812  # a class with a small name

from feature_repo.errors import GrowthUnfinished, PlacementDiffers
from feature_repo.settings import Settings
from streaming.ledger import Ledger

PLACEMENTS = """
    SELECT partitions, partitioner, begins, finished_at IS NOT NULL FROM placements
    WHERE kafka_topic = %s ORDER BY partitions
"""
NOTE = """
    INSERT INTO placements (kafka_topic, partitions, partitioner, finished_at)
    SELECT %(topic)s, %(partitions)s, %(partitioner)s, now()
    WHERE NOT EXISTS (SELECT FROM placements WHERE kafka_topic = %(topic)s)
    ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True)
class Placement:
    """`begins`: by partition the first offset decided under it. `finished`: users' states are where it puts them."""

    partitions: int
    partitioner: str
    begins: Mapping[int, int]
    finished: bool = True

    @property
    def name(self) -> str:
        """As settings.placement."""
        return f"{self.partitions} {self.partitioner}"

    def begin(self, partition: int) -> int:
        return self.begins.get(partition, 0)


class Stretch(NamedTuple):
    """Offsets of a partition that were decided while there were so many partitions."""

    partitions: int
    partition: int
    first: int
    until: int


def placements(cursor: Cursor, settings: Settings) -> list[Placement]:
    """All that the topic ever had, oldest first, a growth that was not finished left out: nothing was decided under it.

    Before the first stream, what the settings say.
    """
    cursor.execute(PLACEMENTS, (settings.topic,))
    found = [_placement(row) for row in cursor.fetchall()]
    return [one for one in found if one.finished] or [Placement(settings.partitions, settings.partitioner, {})]


def require(settings: Settings, ledger: Ledger) -> None:
    """Note how users are placed, at the first time, and from then on hold the settings to it.

    Raises PlacementDiffers, GrowthUnfinished, DependencyDown.
    """
    with ledger.transaction() as cursor:
        asked = {"topic": settings.topic, "partitions": settings.partitions, "partitioner": settings.partitioner}
        cursor.execute(NOTE, asked)
        cursor.execute(PLACEMENTS, (settings.topic,))
        newest = _placement(cursor.fetchall()[-1])
    if not newest.finished:
        raise GrowthUnfinished(newest.partitions)
    if newest.name != settings.placement:
        raise PlacementDiffers(settings.placement, newest.name)


def stretches(history: Sequence[Placement], starts: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[Stretch]:
    """The log from `starts` to before `ends` (by partition), in an order that has each user's payments in theirs."""
    for number, one in enumerate(history):
        until = history[number + 1].begin if number + 1 < len(history) else lambda partition: ends.get(partition, 0)
        for partition in range(one.partitions):
            first, last = max(one.begin(partition), starts.get(partition, 0)), until(partition)
            if first < last:
                yield Stretch(one.partitions, partition, first, last)


def _placement(row: tuple[int, str, dict[str, int], bool]) -> Placement:
    partitions, partitioner, begins, finished = row
    return Placement(partitions, partitioner, {int(partition): at for partition, at in begins.items()}, finished)
