"""What `POST /detect` takes and answers, for the OpenAPI document: the model service does the work."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.transactions.schemas import EXAMPLE as DECISION
from feature_repo.transaction import MAX_AMOUNT, MAX_ID_CHARACTERS, MAX_TEXT_CHARACTERS, REQUIRED

PAYMENT_EXAMPLE = {
    "transaction_id": "txn_123456",
    "user_id": "user_789",
    "amount": 1500.0,
    "timestamp": "2023-07-15T14:22:35Z",
    "merchant": "Online Store",
    "location": "New York",
    "payment_method": "credit_card",
}

_IDENTIFIER = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}
_TEXT = {"type": "string", "maxLength": MAX_TEXT_CHARACTERS}
PAYMENT: dict[str, Any] = {
    "type": "object",
    "required": list(REQUIRED),
    "properties": {
        "transaction_id": _IDENTIFIER,
        "user_id": _IDENTIFIER,
        "amount": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_AMOUNT, "description": "4 decimals at most"},
        "timestamp": {"type": "string", "format": "date-time", "description": "RFC 3339 with its zone"},
        "merchant": _TEXT,
        "location": _TEXT,
        "payment_method": _TEXT,
        "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "merchant_category": _TEXT,
        "channel": _TEXT,
        "device_id": _TEXT,
        "latitude": {"type": "number", "minimum": -90, "maximum": 90},
        "longitude": {"type": "number", "minimum": -180, "maximum": 180},
    },
    "example": PAYMENT_EXAMPLE,
}

REQUEST_BODY = {"required": True, "content": {"application/json": {"schema": PAYMENT}}}

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
    seen_before: bool = Field(description="the same payment is among the user's last 32")
    late: bool
    processed_at: str
    recorded_as: str | None = Field(None, description="with `record=true`: the decision id the stream will use")
