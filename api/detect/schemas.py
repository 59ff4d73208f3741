"""What `POST /detect` takes and answers, for the OpenAPI document: the model service does the work."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.transactions.schemas import EXAMPLE as DECISION
from feature_repo.contracts import contracts

PAYMENT_EXAMPLE = {
    "transaction_id": "txn_123456",
    "user_id": "user_789",
    "amount": 1500.0,
    "timestamp": "2023-07-15T14:22:35Z",
    "merchant": "Online Store",
    "location": "New York",
    "payment_method": "credit_card",
}


def request_body() -> dict[str, Any]:
    """OpenAPI's words for a payment: the contract of the topic, which is what the parser holds it to."""
    contract = contracts()["transactions"].schema
    payment = {name: value for name, value in contract.items() if name not in ("$schema", "$id")}
    schema = {**payment, "example": PAYMENT_EXAMPLE}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_ANSWER = {name: DECISION[name] for name in (
    "transaction_id", "user_id", "currency", "event_time", "outcome", "unscored_reason", "anomaly_score",
    "is_anomaly", "anomaly_reason", "anomaly_reasons", "decision", "model_version", "feature_set_id",
    "ruleset_version", "late", "processed_at",
)}  # fmt: skip


class Detection(BaseModel):
    """The decision on one payment against its user's state of now. Times are RFC 3339, UTC."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                **_ANSWER,
                "reason_shares": [0.61, 0.18],
                "features": {"amount_log": 7.3139, "amount_ratio_30d": 2.184, "history": 3.9318},
                "artifact_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "side_inputs": "ms_4d0c3cf2a5b9e817",
                "seen_before": False,
            }
        }
    )

    transaction_id: str
    user_id: str
    currency: str
    event_time: str
    outcome: Literal["scored", "unscored"]
    unscored_reason: str | None
    anomaly_score: float | None
    is_anomaly: bool | None
    anomaly_reason: str | None
    anomaly_reasons: list[str]
    reason_shares: list[float]
    decision: Literal["approve", "review", "reject"]
    features: dict[str, float] | None
    model_version: str | None
    feature_set_id: str | None
    artifact_sha256: str | None
    ruleset_version: str
    side_inputs: str | None = Field(description="snapshot of merchants behind the features")
    seen_before: bool = Field(description="the same payment is among the user's last 32")
    late: bool
    processed_at: str
    recorded_as: str | None = Field(None, description="with `record=true`: the decision id the stream will use")
