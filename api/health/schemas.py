"""Answers about the service itself."""

from pydantic import BaseModel, Field


class Live(BaseModel):
    status: str = Field(default="live", examples=["live"])


class Ready(BaseModel):
    status: str = Field(default="ready", examples=["ready"])
    checks: dict[str, str] = Field(examples=[{"postgres": "up", "elasticsearch": "up", "serving": "up"}])
