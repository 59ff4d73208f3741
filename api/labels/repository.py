"""Labels in PostgreSQL, and on their topic for whoever else listens."""

import json
from typing import Any

from api.postgres import Database
from feature_repo.labels import INSERT, TOPIC, Label
from feature_repo.recorder import Recorder
from feature_repo.transaction import rfc3339

ADD = f"""WITH added AS ({INSERT.replace("VALUES %s", "VALUES (%s, %s, %s, %s)")} RETURNING *)
INSERT INTO audit (actor, action, subject, after)
SELECT %s, 'label', transaction_id, jsonb_build_object('is_fraud', is_fraud, 'label_time', label_time, 'source', source)
FROM added RETURNING id"""

OF_PAYMENT = """SELECT is_fraud, label_time, source, received_at FROM labels WHERE transaction_id = %s
    ORDER BY label_time DESC, received_at DESC LIMIT 100"""


class LabelRepository:
    """Reads with the reader's role, writes with the writer's; blocks; raises StoreUnavailable."""

    def __init__(self, reading: Database, writing: Database) -> None:
        self._reading = reading
        self._writing = writing

    def of(self, transaction_id: str) -> list[dict[str, Any]]:
        """Newest first."""
        return self._reading.rows(OF_PAYMENT, [transaction_id])

    def add(self, label: Label, actor: str) -> bool:
        """Whether it is new; only then the audit log gets a row."""
        return bool(self._writing.rows(ADD, (*label.row, actor)))


class LabelTopic:
    """Blocks; raises DependencyDown."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def publish(self, label: Label) -> None:
        message = {
            "transaction_id": label.transaction_id,
            "is_fraud": label.is_fraud,
            "label_time": rfc3339(label.label_time),
            "source": label.source,
        }
        self._recorder.record(TOPIC, [(label.transaction_id, json.dumps(message, ensure_ascii=False).encode())])
