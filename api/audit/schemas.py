"""What can be asked of the audit log, and what it answers."""

from typing import Any

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from api.filters import Identifier, Moment, Paged
from api.transactions.schemas import UtcTime


class AuditFilters(Paged):
    actor: Identifier | None = Field(None, description="what this one did only")
    action: Identifier | None = Field(None, description="only this, such as `promote` or `create_key`")
    subject: Identifier | None = Field(None, description="what was done to this only: a model, a key, a topic")
    from_: Moment | None = Field(None, alias="from", description="done at or after this")
    to: Moment | None = Field(None, description="done before this")

    @model_validator(mode="after")
    def _in_order(self) -> "AuditFilters":
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise PydanticCustomError("RANGE_ORDER", "from is after to")
        return self


class AuditRow(BaseModel):
    """Who changed what. Times are RFC 3339, UTC."""

    id: int
    at: UtcTime
    actor: str = Field(examples=["anna's laptop (key 1f9c2ab4c0de)"])
    action: str = Field(examples=["promote"])
    subject: str = Field(examples=["vigil-autoencoder"])
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: int | None = Field(description="of `GET /models/requests/{id}`, where one asked for it")


class AuditPage(BaseModel):
    items: list[AuditRow] = Field(description="newest first")
    next_cursor: str | None = Field(description="for the next page; null on the last")
