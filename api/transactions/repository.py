"""Decisions in PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from api.filters import BEGINNING
from api.postgres import Database
from api.prepared import PreparedDatabase
from api.transactions.render import READ, SHOWN, Rendered, Renderer
from api.transactions.schemas import ExportFilters, ListFilters

DETAIL = """d.id, d.transaction_id, d.user_id, d.amount, d.currency, d.event_time, d.merchant, d.location,
    d.payment_method, d.outcome, d.unscored_reason, d.anomaly_score, d.is_anomaly, d.anomaly_reasons, d.decision,
    d.model_version, d.feature_set_id, d.ruleset_version, d.late, d.processed_at, d.revision, d.ingested_at,
    d.kafka_topic, d.kafka_partition, d.kafka_offset, d.reason_shares, d.features, d.side_inputs, d.challenger_version,
    d.challenger_score"""

# A decision that a later revision has taken the place of. Only unscored ones ever are.
CURRENT = """(d.outcome <> 'unscored' OR NOT EXISTS (
    SELECT FROM decisions later
    WHERE later.user_id = d.user_id AND later.event_time = d.event_time AND later.kafka_topic = d.kafka_topic
      AND later.kafka_partition = d.kafka_partition AND later.kafka_offset = d.kafka_offset
      AND later.revision > d.revision))"""

CONDITIONS = {
    "user_id": "d.user_id = {}",
    "since": "d.event_time >= {}",
    "until": "d.event_time < {}",
    "min_amount": "d.amount >= {}",
    "max_amount": "d.amount <= {}",
    "is_anomaly": "d.is_anomaly = {}",
    "model_version": "d.model_version = {}",
    "decision": "d.decision = {}",
    "outcome": "d.outcome = {}",
    "reason": "d.anomaly_reasons @> ARRAY[{}::text]",
    "merchant": "d.merchant = {}",
    "location": "d.location = {}",
    "payment_method": "d.payment_method = {}",
}

# Days of arrival that are looked at before all are: a user's last fifty payments, or everybody's newest, lie there.
RECENT = timedelta(days=10)
# Of everybody's payments first the newest by their own time: a day that is still written to has but a coarse index of
# it, and a longer span would be read and sorted as a whole.
LATELY = (timedelta(seconds=10), timedelta(minutes=10), timedelta(hours=6))
# A payment is stamped ahead of its arrival by minutes at most (VIGIL_FUTURE_TOLERANCE_S), so what arrived before a day
# lies, by its own time, before the next.
AHEAD = timedelta(days=1)
REVISIONS = 15  # bits of an id that tell them apart
EXPORTED_ROWS = 2_000  # read from a cursor at a time


class Position(NamedTuple):
    """Where a page ended: the last row's value of what is sorted by, and its id."""

    value: datetime | Decimal | float
    id: int


@dataclass(frozen=True)
class Statement:
    text: str
    parameters: list[Any]


@dataclass(frozen=True)
class Matching:
    """That one of the columns holds text of this form, whatever its case (PostgreSQL, "POSIX Regular Expressions")."""

    columns: tuple[str, ...]
    pattern: str


Words = Sequence[Sequence[Matching]]  # one of these alternatives, all of its members


class TransactionRepository:
    """Reads only. What is not `async` blocks. Raises StoreUnavailable."""

    def __init__(self, database: Database, prepared: PreparedDatabase) -> None:
        self._database = database
        self._prepared = prepared
        self._renderer = Renderer()

    async def page(self, filters: ListFilters, after: Position | None, now: datetime, words: Words = ()) -> Rendered:
        """At most `limit` decisions as JSON."""
        newest = min(after.value, now) if after and isinstance(after.value, datetime) else now
        if filters.sort == "-event_time" and filters.user_id is None:
            for since in (newest - span for span in LATELY):
                if (filters.since is None or since > filters.since) and (
                    filters.until is None or since < filters.until
                ):
                    page = await self._page(filters.starting(since), after, earliest(since), now, words)
                    if page.more:
                        return page
        starts = [newest - RECENT, BEGINNING] if filters.sort == "-event_time" else [BEGINNING]
        if filters.since is not None:
            starts = [max(start, earliest(filters.since)) for start in starts[: 1 + (starts[0] > filters.since)]]
        for start in starts[:-1]:
            page = await self._page(filters, after, start, now, words)
            if page.more and page.event_time >= start + AHEAD:
                return page
        return await self._page(filters, after, starts[-1], now, words)

    async def _page(
        self, filters: ListFilters, after: Position | None, start: datetime, now: datetime, words: Words
    ) -> Rendered:
        statement = listed(filters, after, (start, now + AHEAD), filters.limit + 1, words)
        # The expressions stand outside, so that they are made for the rows of the page, and not once a partition.
        wrapped = f"SELECT string_agg({SHOWN}, ''::bytea) FROM ({statement.text}) d"
        records = await self._prepared.value(wrapped, statement.parameters)
        return self._renderer.render(records or b"", filters.limit)

    @asynccontextmanager
    async def export(self, filters: ExportFilters, now: datetime) -> AsyncIterator[AsyncIterator[bytes]]:
        """All of it, some JSON objects at a time, a line each."""
        start = BEGINNING if filters.since is None else earliest(filters.since)
        statement = listed(filters, None, (start, now + AHEAD), None)
        renderer = Renderer()

        async def lines(pieces: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
            async for records in pieces:
                yield renderer.render(b"".join(records), len(records), b"\n").content + b"\n"

        wrapped = f"SELECT {SHOWN} FROM ({statement.text}) d"
        async with self._prepared.pieces(wrapped, statement.parameters, EXPORTED_ROWS) as pieces:
            yield lines(pieces)

    def first(self, transaction_id: str) -> dict[str, Any] | None:
        """The first scored decision of an id in its newest revision, else the first one without a score."""
        found = self._database.rows(
            f"""SELECT {DETAIL},
                (SELECT count(*) FROM decisions other
                 WHERE other.user_id = d.user_id AND other.event_time = d.event_time
                   AND other.transaction_id = d.transaction_id AND other.outcome = 'duplicate') AS repeats
            FROM decisions_of(%s) d
            ORDER BY d.outcome = 'scored' DESC, d.outcome = 'unscored' DESC, d.ingested_at, d.kafka_partition,
                d.kafka_offset, d.revision DESC
            LIMIT 1""",
            [transaction_id],
        )
        return found[0] if found else None


def earliest(since: datetime) -> datetime:
    """Arrival of the first payment that may be of this time or later."""
    return max(BEGINNING + AHEAD, since) - AHEAD


def listed(
    filters: ExportFilters,
    after: Position | None,
    arrived: tuple[datetime, datetime],
    limit: int | None,
    words: Words = (),
) -> Statement:
    """READ of the decisions asked for that arrived in this time, in the order asked for."""
    parameters: list[Any] = []

    def given(value: Any) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    conditions = [f"d.ingested_at >= {given(arrived[0])}", f"d.ingested_at < {given(arrived[1])}"]
    for name, condition in CONDITIONS.items():
        if (value := getattr(filters, name)) is not None:
            conditions.append(condition.format(given(value)))
    if words:
        choices = [" AND ".join(_holds(term, given(term.pattern)) for term in terms) for terms in words]
        conditions.append("(" + " OR ".join(f"({choice})" for choice in choices) + ")")
    if filters.outcome is None:
        conditions.append("d.outcome <> 'duplicate'")
    column, descending = filters.order
    if column == "d.anomaly_score":
        conditions.append("d.anomaly_score IS NOT NULL")
    # Highest first, a revision stands right behind the one in its place and is left out as it is rendered, unless a
    # filter or the end of a piece parted them.
    if limit is None or not descending or filters.decision == "review" or filters.outcome == "unscored":
        conditions.append(CURRENT)
    if after is not None:
        last = after.id & ~REVISIONS if descending else after.id | REVISIONS
        sign = "<" if descending else ">"
        conditions.append(f"({column}, d.id) {sign} ({given(after.value)}, {given(last)})")
    way = "DESC" if descending else "ASC"
    text = f"SELECT {READ} FROM decisions d WHERE {' AND '.join(conditions)} ORDER BY {column} {way}, d.id {way}"
    return Statement(text if limit is None else f"{text} LIMIT {limit}", parameters)


def _holds(term: Matching, pattern: str) -> str:
    return "(" + " OR ".join(f"d.{column} ~* {pattern}" for column in term.columns) + ")"
