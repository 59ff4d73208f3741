"""What `POST /transactions` takes and answers."""

from typing import Any

from pydantic import BaseModel, Field

from api.body import JSON
from api.detect.schemas import request_body as payment

LINES = "application/x-ndjson"


class Taken(BaseModel):
    transaction_id: str = Field(examples=["txn_123456"])
    decision_id: str = Field(description="under which it will be decided", examples=["transactions-2-10441"])


class Accepted(BaseModel):
    """The payments are on the topic, durably; the stream decides them, usually within a second."""

    accepted: int = Field(examples=[1])
    items: list[Taken] = Field(description="in the order they were sent")


def request_body() -> dict[str, Any]:
    """OpenAPI's words: a payment, or one a line."""
    body = payment()
    lines = {"schema": {"type": "string", "description": "a payment per line"}}
    return {**body, "content": {JSON: body["content"][JSON], LINES: lines}}
