"""Labels in PostgreSQL."""

from api.postgres import Database
from feature_repo.labels import INSERT, Label


class LabelRepository:
    """Writes; blocks; raises StoreUnavailable."""

    def __init__(self, writing: Database) -> None:
        self._writing = writing

    def add(self, label: Label) -> bool:
        """Whether it is new."""
        statement = INSERT.replace("VALUES %s", "VALUES (%s, %s, %s, %s)") + " RETURNING transaction_id"
        return bool(self._writing.rows(statement, label.row))
