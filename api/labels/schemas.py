"""What `POST /labels` takes and answers."""

from typing import Any

from pydantic import BaseModel, Field

from feature_repo.contracts import contracts


class Taken(BaseModel):
    """The label is stored; sending it again changes nothing."""

    transaction_id: str = Field(examples=["txn_123456"])
    new: bool = Field(description="false where this label was known already")


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
