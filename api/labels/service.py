"""Takes a label by the same rules as the topic."""

from collections.abc import Callable
from datetime import datetime

from api.labels.repository import LabelRepository
from api.labels.schemas import Taken
from feature_repo import labels


class LabelService:
    def __init__(self, repository: LabelRepository, now: Callable[[], datetime], ahead_s: float) -> None:
        self._repository = repository
        self._now = now
        self._ahead_s = ahead_s

    def take(self, payload: bytes, actor: str) -> Taken:
        """Raises BadRecord with the code a dead letter would have."""
        label = labels.parse(payload, self._now(), self._ahead_s)
        return Taken(transaction_id=label.transaction_id, new=self._repository.add(label, actor))
