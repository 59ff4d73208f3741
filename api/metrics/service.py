"""Lists windows page by page."""

from datetime import datetime
from typing import Any

from api.cursor import Cursors
from api.metrics.repository import WindowRepository
from api.metrics.schemas import Window, WindowFilters, Windows
from feature_repo.transaction import rfc3339

PATH = "/metrics/windows"


class WindowService:
    def __init__(self, repository: WindowRepository, cursors: Cursors) -> None:
        self._repository = repository
        self._cursors = cursors

    def page(self, filters: WindowFilters) -> Windows:
        query = filters.identity(PATH)
        after = None
        if filters.cursor is not None:
            time, row_id = self._cursors.read(filters.cursor, query)
            after = (str(time), int(row_id))
        progress = self._repository.progress(filters.kind) or {}  # before the rows: what it calls final is in them
        rows = self._repository.page(filters, after)
        shown, more = rows[: filters.limit], len(rows) > filters.limit
        last = [rfc3339(shown[-1]["ended_at"]), shown[-1]["id"]] if more else None
        watermark = progress.get("watermark")
        return Windows(
            items=[_presented(row, watermark) for row in shown],
            next_cursor=self._cursors.make(last, query) if last else None,
            watermark=watermark,
            late_payments=progress.get("late", 0),
            counted_at=progress.get("updated_at"),
        )


def _presented(row: dict[str, Any], watermark: datetime | None) -> Window:
    return Window(
        **{**row, "amount": float(row["amount"])},
        mean_amount=round(float(row["amount"] / row["payments"]), 4),
        flagged_share=row["flagged"] / row["scored"] if row["scored"] else None,
        final=row["kind"] == "user" or (watermark is not None and row["ended_at"] <= watermark),
    )
