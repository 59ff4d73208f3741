"""Takes a label by the same rules as the topic."""

from collections.abc import Callable
from datetime import datetime

from api.labels.repository import LabelRepository, LabelTopic
from api.labels.schemas import Known, Labels, Taken
from feature_repo import labels


class LabelService:
    def __init__(
        self, repository: LabelRepository, topic: LabelTopic, now: Callable[[], datetime], ahead_s: float
    ) -> None:
        self._repository = repository
        self._topic = topic
        self._now = now
        self._ahead_s = ahead_s

    def take(self, payload: bytes, actor: str) -> Taken:
        """Stored, then published: sending it again after an error completes what is missing.

        Raises BadRecord with the code a dead letter would have, StoreUnavailable, DependencyDown.
        """
        label = labels.parse(payload, self._now(), self._ahead_s)
        new = self._repository.add(label, actor)
        self._topic.publish(label)
        return Taken(transaction_id=label.transaction_id, new=new)

    def of(self, transaction_id: str) -> Labels:
        """Blocks. Raises StoreUnavailable."""
        found = [Known(**row) for row in self._repository.of(transaction_id)]
        return Labels(transaction_id=transaction_id, items=found)
