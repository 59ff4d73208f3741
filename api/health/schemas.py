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


class Server(BaseModel):
    """A server or process of the stack, as this service sees it."""

    name: str = Field(examples=["kafka"])
    state: str = Field(description="up, not ready, down, or unknown where who would tell is down", examples=["up"])
    means: str = Field(
        description="what is so while it is not up", examples=["no payment comes in and none is decided"]
    )
    remedy: str = Field(examples=["vigil logs kafka, vigil restart kafka"])


class Servers(BaseModel):
    items: list[Server]
    degraded: list[Degraded] = Field(description="what jobs and switches say is amiss")
