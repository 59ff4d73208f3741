"""The audit log in PostgreSQL."""

from typing import Any

from api.audit.schemas import AuditFilters
from api.postgres import Database

CONDITIONS = {
    "actor": "actor = %(actor)s",
    "action": "action = %(action)s",
    "subject": "subject = %(subject)s",
    "from_": "at >= %(from_)s",
    "to": "at < %(to)s",
}


class AuditRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, filters: AuditFilters, before: int | None) -> list[dict[str, Any]]:
        """At most `limit + 1` rows, newest first; `before` is the id of the last seen."""
        values = {name: getattr(filters, name) for name in CONDITIONS}
        conditions = [CONDITIONS[name] for name, value in values.items() if value is not None]
        if before is not None:
            conditions.append("id < %(before)s")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        return self._database.rows(
            f"""SELECT id, at, actor, action, subject, before, after, request_id FROM audit {where}
            ORDER BY id DESC LIMIT %(rows)s""",
            {**values, "before": before, "rows": filters.limit + 1},
        )
