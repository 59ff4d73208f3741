"""Asks the model service for a decision on one payment."""

from api.detect.repository import Answer, ModelService


class DetectService:
    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def detect(self, payload: bytes, record: bool, request_id: str) -> Answer:
        """Raises DependencyDown; every other refusal is the model service's own and passes as it is."""
        return await self._models.detect(payload, record, request_id)
