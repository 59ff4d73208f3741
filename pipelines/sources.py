"""Where a stream of payments comes from: a data set as it is or moved to now, or what simulated people do next.

Three ways event times relate to the clock:
  as they are    a data set's own times; a second run sends the same bytes, so every payment is a duplicate
  shift to now   one shift for all, which puts the newest payment sent at now: order and gaps stay, nothing
                 lies ahead of the clock, and new ids make them new payments
  simulated      the continuation of a simulated history in its own time, as fast as the rate asks, until it
                 has caught up with the clock
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from feature_repo.transaction import SCHEMA
from pipelines.clock import Clock
from pipelines.history import data_folder
from pipelines.simulator import folder as folders
from pipelines.simulator import world as worlds
from pipelines.simulator.world import Options, World

BATCH_ROWS = 8_192
FRESH_DAYS = 30  # how far back people who were not simulated before begin
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_US = pa.timestamp("us", tz="UTC")


def from_history(
    settings: Settings, name: str, clock: Clock, *, shift_to_now: bool = False, count: int | None = None,
    first: date | None = None, last: date | None = None,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """SCHEMA batches of a data set in order of arrival; at most `count`, of event days `first` to `last` (UTC).

    Raises BadConfiguration without such a data set.
    """
    path = data_folder(settings, name) / "history.parquet"
    if not path.exists():
        raise BadConfiguration(f"there is no data set {name}", remedy=f"vigil import FILE --name {name}")
    batches = _limited(_of_days(path, SCHEMA.names, first, last), count)
    if not shift_to_now:
        return batches
    times = _limited(_of_days(path, ["event_time"], first, last), count)
    newest = max((pc.max(batch["event_time"]).value for batch in times), default=0)
    shift, tag = clock.now_us() - newest, _letters(clock.now_us() // 1_000_000)
    return (_moved(batch, shift, tag) for batch in batches)


def from_people(settings: Settings, name: str | None, clock: Clock) -> Iterator[pa.RecordBatch]:
    """SCHEMA batches of simulated payments that have arrived by now, in order of arrival.

    With a name, what the people of that simulated data set do after its history; without, new people who
    began FRESH_DAYS ago. Ends when it has caught up with the clock.
    """
    for arrived in _until_now(*_people(settings, name, clock), clock):
        for start in range(0, arrived.num_rows, BATCH_ROWS):
            yield arrived.slice(start, BATCH_ROWS).select(SCHEMA.names)


class Report(NamedTuple):
    """A payment that was reported as fraud, and when: microseconds since 1970."""

    label_time: int
    transaction_id: str


def reports(settings: Settings, name: str | None, clock: Clock) -> list[Report]:
    """What becomes known by now, earliest first, while the payments of `from_people` happen: of them, and of those in
    the history before them."""
    world, first_day = _people(settings, name, clock)
    found = [_reported(day) for day in _until_now(world, first_day, clock)]
    if name is not None:
        columns = ["transaction_id", "label_time"]
        history = pq.ParquetFile(data_folder(settings, name) / "history.parquet")
        found += [_reported(batch) for batch in history.iter_batches(batch_size=BATCH_ROWS, columns=columns)]
    begins, ends = world.midnight_us(first_day), clock.now_us()
    return sorted(report for some in found for report in some if begins <= report.label_time <= ends)


def _reported(payments: pa.RecordBatch) -> list[Report]:
    known = payments.filter(payments["label_time"].is_valid())
    times = known["label_time"].cast(pa.int64()).to_pylist()
    return [Report(*pair) for pair in zip(times, known["transaction_id"].cast(pa.string()).to_pylist(), strict=True)]


def _people(settings: Settings, name: str | None, clock: Clock) -> tuple[World, int]:
    """The people and the first day of what they do next."""
    if name is not None:
        return folders.world_of(data_folder(settings, name))
    start = datetime.fromtimestamp(clock.now_us() / 1e6, UTC).date() - timedelta(days=FRESH_DAYS)
    return worlds.build(Options(users=10_000, seed=1, start=start)), 0


def _until_now(world: World, first_day: int, clock: Clock) -> Iterator[pa.RecordBatch]:
    """HISTORY_SCHEMA batches, one a day, of what has arrived by now."""
    days = (clock.now_us() - world.midnight_us(first_day)) // worlds.DAY_US + 1
    if days <= 0:
        raise BadConfiguration("the simulated history ends in the future; there is nothing to go on with yet")
    for day in folders.payments_after(world, first_day, days):
        yield day.filter(pc.less_equal(day["arrival_time"], pa.scalar(clock.now_us()).cast(_US)))


def _of_days(path: Path, columns: list[str], first: date | None, last: date | None) -> Iterator[pa.RecordBatch]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=columns):
        if first or last:
            days = batch["event_time"].cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
            wanted = pc.and_(
                pc.greater_equal(days, pa.scalar(first or date.min)), pc.less_equal(days, pa.scalar(last or date.max))
            )
            batch = batch.filter(wanted)
        if batch.num_rows:
            yield batch


def _limited(batches: Iterator[pa.RecordBatch], count: int | None) -> Iterator[pa.RecordBatch]:
    left = count
    for batch in batches:
        if left is not None:
            batch = batch.slice(0, left)
            left -= batch.num_rows
        if batch.num_rows:
            yield batch
        if left == 0:
            return


def _moved(batch: pa.RecordBatch, shift_us: int, tag: str) -> pa.RecordBatch:
    """Event times plus `shift_us`; ids get a tag, since an old id with a new time would be a conflict."""
    times = batch["event_time"].cast(pa.int64()).to_numpy() + np.int64(shift_us)
    ids = pc.binary_join_element_wise(batch["transaction_id"], tag, "-")
    columns = [
        ids if name == "transaction_id" else pa.array(times).cast(_US) if name == "event_time" else batch[name]
        for name in SCHEMA.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _letters(number: int) -> str:
    """Letters only: digits could complete a card number."""
    text = ""
    while number:
        number, rest = divmod(number, len(_LETTERS))
        text = _LETTERS[rest] + text
    return text
