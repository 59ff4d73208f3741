"""What `POST /labels` takes and answers."""

from typing import Any

from pydantic import BaseModel, Field

from api.filters import Identifier, Query
from api.transactions.schemas import UtcTime
from feature_repo.contracts import contracts


class Taken(BaseModel):
    """The label is stored; sending it again changes nothing."""

    transaction_id: str = Field(examples=["txn_123456"])
    new: bool = Field(description="false where this label was known already")


class LabelFilters(Query):
    transaction_id: Identifier = Field(description="labels of this payment")


class Known(BaseModel):
    """One label of a payment. Times are RFC 3339, UTC."""

    is_fraud: bool
    label_time: UtcTime = Field(description="when it was learnt, as the source says")
    source: str = Field(description="who says so", examples=["chargeback"])
    received_at: UtcTime


class Labels(BaseModel):
    transaction_id: str = Field(examples=["txn_123456"])
    items: list[Known] = Field(description="newest first: the first one counts")


def request_body() -> dict[str, Any]:
    """OpenAPI's words for a label: the contract of topic `labels`."""
    contract = contracts()["labels"]
    schema = {name: value for name, value in contract.schema.items() if name not in ("$schema", "$id")}
    example = {
        "transaction_id": "txn_123456",
        "is_fraud": True,
        "label_time": "2023-07-22T09:00:00Z",
        "source": "chargeback",
    }
    return {"required": True, "content": {"application/json": {"schema": {**schema, "example": example}}}}
