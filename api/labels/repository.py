"""Labels in PostgreSQL, and on their topic for whoever else listens."""

import json

from api.postgres import Database
from feature_repo.labels import INSERT, TOPIC, Label
from feature_repo.recorder import Recorder
from feature_repo.transaction import rfc3339

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
