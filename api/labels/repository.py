"""Labels in PostgreSQL, and on their topic for whoever else listens."""

import json

from api.postgres import Database
from feature_repo.labels import INSERT, TOPIC, Label
from feature_repo.recorder import Recorder
from feature_repo.transaction import rfc3339


class LabelRepository:
    """Writes; blocks; raises StoreUnavailable."""

    def __init__(self, writing: Database) -> None:
        self._writing = writing

    def add(self, label: Label) -> bool:
        """Whether it is new."""
        statement = INSERT.replace("VALUES %s", "VALUES (%s, %s, %s, %s)") + " RETURNING transaction_id"
        return bool(self._writing.rows(statement, label.row))


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
