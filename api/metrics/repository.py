"""Windows in PostgreSQL."""

from typing import Any

from api.metrics.schemas import WindowFilters
from api.postgres import Database

CONDITIONS = {"key": "key = %(key)s", "from_": "ended_at > %(from_)s", "to": "ended_at <= %(to)s"}
QUERIES = {"merchant": "windows", "payment_method": "windows", "user": "sessions"}  # which one counts a kind


class WindowRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, filters: WindowFilters, after: tuple[str, int] | None) -> list[dict[str, Any]]:
        """At most `limit + 1` windows, newest end first; `after` is (ended_at, id) of the last seen."""
        values: dict[str, Any] = {name: getattr(filters, name) for name in CONDITIONS}
        conditions = ["kind = %(kind)s", *(CONDITIONS[name] for name, value in values.items() if value is not None)]
        if after is not None:
            conditions.append("(ended_at, id) < (%(after_time)s::timestamptz, %(after_id)s)")
            values |= {"after_time": after[0], "after_id": after[1]}
        return self._database.rows(
            "SELECT id, kind, key, started_at, ended_at, payments, amount, scored, flagged FROM payment_windows"
            f" WHERE {' AND '.join(conditions)} ORDER BY ended_at DESC, id DESC LIMIT %(rows)s",
            {**values, "kind": filters.kind, "rows": filters.limit + 1},
        )

    def progress(self, kind: str) -> dict[str, Any] | None:
        """Watermark and late payments of the query that counts this kind; None before its first batch."""
        found = self._database.rows(
            "SELECT watermark, late, updated_at FROM window_progress WHERE query = %s", [QUERIES[kind]]
        )
        return found[0] if found else None
