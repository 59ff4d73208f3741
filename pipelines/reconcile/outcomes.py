"""Kafka's records, the ledger's ranges and the rows of both tables, a piece of a partition at a time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.features import RING_SIZE
from feature_repo.memory import RESET_AFTER
from feature_repo.settings import Settings
from pipelines import log
from pipelines.online import Seed
from pipelines.reconcile.findings import Findings, Reconciled
from pipelines.requests import Cursor
from streaming.decisions import row_id
from streaming.placement import placements
from training.data import midnight

Offsets = npt.NDArray[np.int64]
PIECE_OFFSETS = 50_000  # and what is left of the last range: what is held at once
LOOK_BACK = 1_000_000  # offsets before the window in which an id may have been decided already
CLOCK_STEP_US = 60_000_000  # PostgreSQL's clock may be set back by so much between two commits
SUSPECTS = 1_000  # ids that are looked at more closely

START = """
    SELECT min(first_offset) FROM ledger_ranges WHERE kafka_topic = %s AND kafka_partition = %s AND committed_at >= %s
"""
# The last range that ends by an offset.
BEFORE = """
    SELECT first_offset, until_offset, (extract(epoch FROM committed_at) * 1000000)::bigint FROM ledger_ranges
    WHERE kafka_topic = %s AND kafka_partition = %s AND first_offset < %s AND until_offset <= %s
    ORDER BY first_offset DESC LIMIT 1
"""
RANGES = """
    SELECT first_offset, until_offset, records, scored, unscored, duplicates, dead_letters,
        (extract(epoch FROM committed_at) * 1000000)::bigint, coalesce(hashtext(model_version), 0)
    FROM ledger_ranges
    WHERE kafka_topic = %s AND kafka_partition = %s AND first_offset > %s AND first_offset < %s
    ORDER BY first_offset LIMIT %s
"""
ROWS = """
    SELECT kafka_offset, floor(extract(epoch FROM ingested_at) / 86400)::bigint,
        CASE outcome WHEN 'scored' THEN 0 WHEN 'unscored' THEN 1 ELSE 2 END, revision,
        coalesce(hashtext(model_version), 0)
    FROM decisions WHERE id >= %s AND id < %s AND kafka_topic = %s
    UNION ALL
    SELECT kafka_offset, floor(extract(epoch FROM ingested_at) / 86400)::bigint, 3, 1, 0
    FROM dead_letters WHERE kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s AND kafka_topic = %s
"""
SCORED = 0
DEAD_LETTER = 3  # the outcomes before it are those of `decisions`
# Payments in another currency are not folded: the state does not know their ids.
_FOLDED = "outcome <> 'duplicate' AND unscored_reason IS DISTINCT FROM 'CURRENCY_UNSUPPORTED' AND revision = 1"
TWICE = f"""
    SELECT user_id, transaction_id, array_agg(kafka_offset ORDER BY kafka_offset) FROM decisions
    WHERE id >= %s AND id < %s AND kafka_topic = %s AND {_FOLDED}
    GROUP BY 1, 2 HAVING count(*) > 1 LIMIT {SUSPECTS}
"""
BETWEEN = f"""
    SELECT count(*), (extract(epoch FROM max(event_time) - min(event_time)) * 1000000)::bigint FROM decisions
    WHERE user_id = %s AND kafka_topic = %s AND kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s
        AND {_FOLDED}
"""


@dataclass
class Seen:
    """How far the partitions were looked at, and what is to be found in the search index because of it."""

    until: dict[int, int] = field(default_factory=dict)
    documents: Counter[tuple[date, int]] = field(default_factory=Counter)  # by day and partition
    revised: dict[int, dict[int, tuple[int, date]]] = field(default_factory=dict)  # partition: offset: revision, day


@dataclass(frozen=True)
class Place:
    """One partition as it is when the look begins."""

    number: int
    committed: int
    low: int  # oldest offset in Kafka
    high: int  # one after its newest
    floor: int  # first offset whose outcome is kept


def look(
    settings: Settings, cursor: Cursor, place: Place, first: date | None, last: date | None, seen: Seen,
    found: Findings, done: Reconciled,
) -> None:  # fmt: skip
    """One partition, from where it was left or from what was committed since `first`, to what is committed now.

    `last` is the last day (UTC) of the broker's time that is looked at.
    """
    topic, number = settings.topic, place.number
    if place.high < place.committed:
        found.add("LOG_BEHIND", f"{topic}-{number} ends at {place.high}, the ledger is at {place.committed}")
    begins = seen.until.get(number)
    if begins is None:
        begins = max(_start(cursor, topic, place, first), place.floor)
    at = begins
    records = _Records(settings, place, at)
    for ranges, low, high in _pieces(cursor, topic, place, at, found):
        days = _piece(settings, cursor, place, ranges, (low, high), records, seen, found, done)
        at = high
        if last is not None and len(days) and days.min() > (last - date(1970, 1, 1)).days:
            break
    seen.until[number] = at
    done.offsets += at - begins
    if at > begins:
        _decided_twice(settings, cursor, place, begins, at, found)


def _start(cursor: Cursor, topic: str, place: Place, first: date | None) -> int:
    """Where the range before the first that counts ends: a range that is gone leaves a hole behind it."""
    if first is None:
        return 0
    cursor.execute(START, (topic, place.number, midnight(first)))
    ((start,),) = cursor.fetchall()
    start = place.committed if start is None else start
    cursor.execute(BEFORE, (topic, place.number, start, start))
    before = cursor.fetchone()
    return int(before[1]) if before else 0


# ---- the ledger ---------------------------------------------------------------------------------------


def _pieces(
    cursor: Cursor, topic: str, place: Place, at: int, found: Findings
) -> Iterator[tuple[npt.NDArray[np.int64], int, int]]:
    """Ranges [n, 9] in order, as RANGES has them, with the offsets from `low` to before `high` they stand for.

    The last piece ends at the ledger's position.
    """
    name = f"{topic}-{place.number}"
    cursor.execute(BEFORE, (topic, place.number, at, at))
    before, until, committed_at = cursor.fetchone() or (-1, 0, 0)
    while True:
        cursor.execute(RANGES, (topic, place.number, before, place.committed, PIECE_OFFSETS))
        ranges = np.array(cursor.fetchall(), np.int64).reshape(-1, 9)
        if not len(ranges):
            break
        ranges = ranges[: int(np.searchsorted(ranges[:, 0], at + PIECE_OFFSETS)) or 1]
        ends = np.maximum.accumulate(np.concatenate(([until], ranges[:, 1])))
        for row in np.flatnonzero(ranges[:, 0] < ends[:-1]):
            found.add("LEDGER_OVERLAP", f"{name} from {ranges[row, 0]} lies below {ends[row]}")
        times = np.concatenate(([committed_at], ranges[:, 7]))
        for row in np.flatnonzero(np.diff(times) < -CLOCK_STEP_US):
            found.add("LEDGER_BACKWARD", f"{name} from {ranges[row, 0]}")
        before, until, committed_at = int(ranges[-1, 0]), int(ends[-1]), int(times[-1])
        yield ranges, at, until
        at = until
    if until != place.committed and place.committed > place.floor:
        found.add("LEDGER_MISPLACED", f"{name} is at {place.committed}, its last range ends at {until}")
        if at < place.committed:
            yield np.empty((0, 9), np.int64), at, place.committed


# ---- a piece --------------------------------------------------------------------------------------------


def _piece(
    settings: Settings, cursor: Cursor, place: Place, ranges: npt.NDArray[np.int64], bounds: tuple[int, int],
    records: "_Records", seen: Seen, found: Findings, done: Reconciled,
) -> Offsets:  # fmt: skip
    """Compare; answers the days (since 1970) of the outcomes."""
    (low, high), number, topic = bounds, place.number, settings.topic
    first_id, end_id = row_id(number, np.array([low, high]), 0).tolist()
    cursor.execute(ROWS, (first_id, end_id, topic, number, low, high, topic))
    rows = np.array(cursor.fetchall(), np.int64).reshape(-1, 5)
    _revised(rows[rows[:, 3] > 1], number, seen)
    rows = rows[rows[:, 3] == 1]
    offsets, counts = np.unique(rows[:, 0], return_counts=True)
    held = records.until(high)

    def tell(code: str, which: Offsets) -> None:
        found.add(code, *(f"{topic}-{number}-{offset}" for offset in which[:10]), count=len(which))

    tell("OUTCOME_TWICE", offsets[counts > 1])
    tell("OUTCOME_MISSING", np.setdiff1d(held, offsets))
    surplus = np.setdiff1d(offsets[offsets >= place.low], held)
    if len(surplus):  # what Kafka deleted while it was read is no fault
        tell("RECORD_MISSING", surplus[surplus >= log.kept(settings)[number][0]])
    tell("LEDGER_HOLE", _outside(np.union1d(offsets, held), ranges))
    _sums(rows, ranges, place, topic, found)

    decided = rows[rows[:, 2] != DEAD_LETTER]
    for day, count in zip(*np.unique(decided[:, 1], return_counts=True), strict=True):
        seen.documents[date(1970, 1, 1) + timedelta(days=int(day)), number] += int(count)
    done.decisions += len(decided)
    done.dead_letters += len(rows) - len(decided)
    done.records += len(held)
    begins = max(low, place.low)
    done.gaps += max(high - begins, 0) - len(np.union1d(held, offsets[offsets >= begins]))
    return rows[:, 1]


def _revised(rows: npt.NDArray[np.int64], number: int, seen: Seen) -> None:
    revised = seen.revised.setdefault(number, {})
    for offset, day, _, revision, _ in rows.tolist():
        known = revised.get(offset, (0, date.min))[0]
        revised[offset] = (max(known, revision), date(1970, 1, 1) + timedelta(days=day))


def _outside(offsets: Offsets, ranges: npt.NDArray[np.int64]) -> Offsets:
    """Those that lie in no range."""
    if not len(ranges):
        return offsets
    row = np.searchsorted(ranges[:, 0], offsets, side="right") - 1
    ends = np.maximum.accumulate(ranges[:, 1])
    return offsets[(row < 0) | (offsets >= ends[np.maximum(row, 0)])]


def _sums(rows: Offsets, ranges: npt.NDArray[np.int64], place: Place, topic: str, found: Findings) -> None:
    """Each range's model version and counts against its rows; one that retention has cut is no longer counted."""
    row = np.searchsorted(ranges[:, 0], rows[:, 0], side="right") - 1
    inside = np.zeros(len(rows), np.bool_)
    inside[row >= 0] = rows[row >= 0, 0] < ranges[row[row >= 0], 1]
    scored = inside & (rows[:, 2] == SCORED)
    mixed = rows[scored, 0][rows[scored, 4] != ranges[row[scored], 8]]
    found.add("VERSIONS_MIXED", *(f"{topic}-{place.number}-{offset}" for offset in mixed[:10]), count=len(mixed))
    held = np.zeros((len(ranges), 4), np.int64)
    np.add.at(held, (row[inside], rows[inside, 2]), 1)
    wrong = (held != ranges[:, 3:7]).any(axis=1) | (ranges[:, 2] != ranges[:, 3:7].sum(axis=1))
    for at in np.flatnonzero(wrong & (ranges[:, 0] >= place.floor)):
        said, is_so = (f"{a}/{b}/{c}/{d}" for a, b, c, d in (ranges[at, 3:7], held[at]))
        counts = f"{said} of {ranges[at, 2]} counted, {is_so} there"
        found.add("LEDGER_SUM", f"{topic}-{place.number} from {ranges[at, 0]} ({counts})")


class _Records:
    """Offsets of the records of a partition, read as far as asked; nothing is asked of Kafka before that."""

    def __init__(self, settings: Settings, place: Place, at: int) -> None:
        self._until = max(at, place.low)
        self._end = place.high
        self._pieces = log.records(settings, place.number, max(at, place.low), place.high)
        self._held: Offsets = np.empty(0, np.int64)

    def until(self, high: int) -> Offsets:
        """Those below `high` that were not answered before."""
        pieces = [self._held]
        while self._until < min(high, self._end):
            offsets = next(self._pieces, (np.empty(0, np.int64),))[0]
            self._until = int(offsets[-1]) + 1 if len(offsets) else self._end
            pieces.append(offsets)
        held = np.concatenate(pieces)
        self._held = held[held >= high]
        return held[held < high]


# ---- ids --------------------------------------------------------------------------------------------------


def _decided_twice(settings: Settings, cursor: Cursor, place: Place, begins: int, until: int, found: Findings) -> None:
    """An id decided again while the user's state still knew it: within 32 payments and without a silence that
    resets the state. States that a history replaced knew nothing of what was before. Payments from before the topic
    was grown are not looked at: a user's may lie in several partitions, and offsets do not say in which order."""
    topic, number = settings.topic, place.number
    seeded = Seed.newest(cursor, topic)
    grown = placements(cursor, settings)[-1].begin(number)
    known_from = max(seeded.positions.get(number, 0) if seeded else 0, begins - LOOK_BACK, grown)
    low, high = row_id(number, np.array([known_from, until]), 0).tolist()
    cursor.execute(TWICE, (low, high, topic))
    suspects: list[tuple[str, str, list[Any]]] = cursor.fetchall()
    for user, _, offsets in suspects:
        for one, again in pairwise(offsets):
            if again < begins or again == one:  # an offset with two outcomes is told as that
                continue
            cursor.execute(BETWEEN, (user, topic, number, one, again))
            ((payments, span),) = cursor.fetchall()
            if payments <= RING_SIZE and span <= RESET_AFTER:
                found.add("DECIDED_TWICE", f"{topic}-{number}-{again} as {topic}-{number}-{one}")
