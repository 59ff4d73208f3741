"""Lists decisions page by page, exports them, and shows one with its evidence."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import numpy as np

from api.cursor import Cursors
from api.errors import CursorInvalid, ExportsBusy, TransactionUnknown
from api.transactions import sheet
from api.transactions.render import Rendered
from api.transactions.repository import Position, TransactionRepository
from api.transactions.schemas import DecisionDetail, ExportFilters, ListFilters
from feature_repo.evidence import evidence
from feature_repo.features import NAMES
from feature_repo.transaction import rfc3339

PATH = "/transactions"
EXPORTS = 2  # at once: each holds a connection and a snapshot of the database


class TransactionService:
    def __init__(
        self,
        repository: TransactionRepository,
        cursors: Cursors,
        artifact_of: Callable[[str], str | None],
        now: Callable[[], datetime],
    ) -> None:
        self._repository = repository
        self._cursors = cursors
        self._artifact_of = artifact_of
        self._now = now
        self._exports = asyncio.Semaphore(EXPORTS)

    async def page(self, filters: ListFilters) -> bytes:
        """A `Page` as JSON. Raises CursorInvalid, StoreUnavailable."""
        after = None
        if filters.cursor is not None:
            after = _position(self._cursors.read(filters.cursor, filters.identity(PATH)), filters.sort)
        page = await self._repository.page(filters, after, self._now())
        following = b"null"
        if page.more:
            cursor = self._cursors.make([_value(page, filters.sort), page.id], filters.identity(PATH))
            following = b'"%s"' % cursor.encode()
        return b'{"items":[%s],"next_cursor":%s}' % (page.content, following)

    async def export(
        self, filters: ExportFilters, form: Literal["csv", "ndjson"]
    ) -> tuple[AsyncIterator[bytes], AsyncExitStack]:
        """What the list holds, piece by piece, and what has to be closed after it.

        Raises ExportsBusy, and StoreUnavailable where it cannot begin.
        """
        if self._exports.locked():
            raise ExportsBusy
        async with AsyncExitStack() as opened:
            await opened.enter_async_context(self._exports)
            lines = await opened.enter_async_context(self._repository.export(filters, self._now()))
            first = await anext(lines, b"")
            held = opened.pop_all()

        async def pieces() -> AsyncIterator[bytes]:
            if form == "csv":
                yield sheet.HEAD
            yield sheet.rows(first) if form == "csv" else first
            async for some in lines:
                yield sheet.rows(some) if form == "csv" else some

        return pieces(), held

    def get(self, transaction_id: str) -> DecisionDetail:
        """Raises TransactionUnknown."""
        row = self._repository.first(transaction_id)
        if row is None:
            raise TransactionUnknown
        version = row["model_version"]
        features = vector(row["features"])
        artifact = self._artifact_of(version) if version is not None else None
        details = {
            "reason_shares": row["reason_shares"] or [],
            "evidence": None if artifact is None else found(row["anomaly_reasons"] or [], features),
            "features": features,
            "artifact_sha256": artifact,
            "seen_before": row["repeats"] > 0,
        }
        return DecisionDetail(**{**presented(row), **details})


def _value(page: Rendered, sort: str) -> str | float:
    """What the last row of a page is sorted by, as a cursor holds it."""
    if sort.endswith("event_time"):
        return rfc3339(page.event_time)
    last = json.loads(b"[%s]" % page.content, parse_float=str)[-1][sort.removeprefix("-")]
    return str(last)


def _position(given: list[Any], sort: str) -> Position:
    value, identity = given
    try:
        if sort.endswith("event_time"):
            return Position(datetime.fromisoformat(value), int(identity))
        return Position(Decimal(value) if sort.endswith("amount") else float(value), int(identity))
    except (ValueError, TypeError, InvalidOperation) as error:
        raise CursorInvalid from error  # of a former release: the tag says that it is ours


def presented(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `decisions` in the words of the schema; what the schema does not name is dropped by it."""
    reasons = row["anomaly_reasons"] or []
    identity = f"{row['kafka_topic']}-{row['kafka_partition']}-{row['kafka_offset']}"
    return {
        **row,
        "amount": float(row["amount"]),
        "anomaly_reason": reasons[0] if reasons else None,
        "anomaly_reasons": reasons,
        "decision_id": identity,
    }


def found(reasons: list[str], features: dict[str, float] | None) -> list[dict[str, Any]] | None:
    """The evidence behind reasons. A loaded version's features mean what they mean today, or the model service would
    have refused it."""
    if features is None or len(features) < len(NAMES):  # decided before a feature was added
        return None
    try:
        return [one.as_json() for one in evidence(reasons, features)]
    except (ArithmeticError, ValueError):  # logarithms of what no payment can be: a row of somebody else's
        return None


def vector(stored: bytes | None) -> dict[str, float] | None:
    """`decisions.features` by name, each as the shortest decimal of its float32. None where there is none.

    Features are only ever appended to the catalogue, so an old row's are its first ones.
    """
    if stored is None:
        return None
    values = np.frombuffer(bytes(stored), "<f4")
    if not np.isfinite(values).all():
        return None
    return {name: float(str(value)) for name, value in zip(NAMES, values, strict=False)}
