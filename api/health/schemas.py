"""Answers about the service itself."""

from pydantic import BaseModel, Field

from api.transactions.schemas import UtcTime


class Live(BaseModel):
    status: str = Field(default="live", examples=["live"])


class Degraded(BaseModel):
    """One thing that is not as it should be, and what to do about it."""

    code: str = Field(examples=["MODEL_DOWN"])
    component: str = Field(examples=["serving"])
    cause: str = Field(examples=["the model service does not answer: payments go to review without a score"])
    remedy: str = Field(examples=["vigil restart serving"])
    since: UtcTime


class Ready(BaseModel):
    status: str = Field(default="ready", examples=["ready"])
    checks: dict[str, str] = Field(examples=[{"postgres": "up", "elasticsearch": "up", "serving": "up"}])
    degraded: list[Degraded] = Field(description="what the road lacks while this service itself is ready")
