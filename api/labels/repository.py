"""Labels in PostgreSQL."""

from api.postgres import Database
from feature_repo.labels import INSERT, Label

ADD = f"""WITH added AS ({INSERT.replace("VALUES %s", "VALUES (%s, %s, %s, %s)")} RETURNING *)
INSERT INTO audit (actor, action, subject, after)
SELECT %s, 'label', transaction_id, jsonb_build_object('is_fraud', is_fraud, 'label_time', label_time, 'source', source)
FROM added RETURNING id"""


class LabelRepository:
    """Writes; blocks; raises StoreUnavailable."""

    def __init__(self, writing: Database) -> None:
        self._writing = writing

    def add(self, label: Label, actor: str) -> bool:
        """Whether it is new; only then the audit log gets a row."""
        return bool(self._writing.rows(ADD, (*label.row, actor)))
