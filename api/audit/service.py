"""Pages through the audit log."""

from api.audit.repository import AuditRepository
from api.audit.schemas import AuditFilters, AuditPage, AuditRow
from api.cursor import Cursors

PATH = "/audit"


class AuditService:
    def __init__(self, repository: AuditRepository, cursors: Cursors) -> None:
        self._repository = repository
        self._cursors = cursors

    def page(self, filters: AuditFilters) -> AuditPage:
        """Raises CursorInvalid."""
        query = filters.identity(PATH)
        before = None if filters.cursor is None else int(self._cursors.read(filters.cursor, query)[0])
        rows = self._repository.page(filters, before)
        shown, more = rows[: filters.limit], len(rows) > filters.limit
        return AuditPage(
            items=[AuditRow(**row) for row in shown],
            next_cursor=self._cursors.make([shown[-1]["id"]], query) if more else None,
        )
