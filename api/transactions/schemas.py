"""What the query service says about a decided payment."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from api.filters import Filters, Paged, Text
from feature_repo.transaction import rfc3339

EXAMPLE: JsonDict = {
    "transaction_id": "txn_123456",
    "user_id": "user_789",
    "amount": 1500.0,
    "currency": "USD",
    "event_time": "2023-07-15T14:22:35.000000Z",
    "merchant": "Online Store",
    "location": "New York",
    "payment_method": "credit_card",
    "outcome": "scored",
    "unscored_reason": None,
    "anomaly_score": 0.9213,
    "is_anomaly": True,
    "anomaly_reason": "unusual_amount_for_user",
    "anomaly_reasons": ["unusual_amount_for_user", "new_merchant_for_user"],
    "decision": "review",
    "model_version": "3",
    "feature_set_id": "fs_6d0b9f0f3f8a4a52",
    "ruleset_version": "v0",
    "late": False,
    "processed_at": "2023-07-15T14:22:35.412000Z",
    "decision_id": "transactions-2-10441",
    "revision": 1,
    "ingested_at": "2023-07-15T14:22:35.031000Z",
}


UtcTime = Annotated[datetime, PlainSerializer(rfc3339, return_type=str)]


class Decision(BaseModel):
    """One decision: the payment, its outcome and where it comes from. Times are UTC."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    transaction_id: str
    user_id: str
    amount: float = Field(description="in `currency`")
    currency: str
    event_time: UtcTime = Field(description="the payment's own timestamp")
    merchant: str
    location: str
    payment_method: str
    outcome: Literal["scored", "unscored", "duplicate"]
    unscored_reason: str | None = Field(description="why there is no score")
    anomaly_score: float | None = Field(description="0 to 1, higher is rarer: 0.5 is one payment in a hundred")
    is_anomaly: bool | None = Field(description="the score reaches the model's threshold")
    anomaly_reason: str | None = Field(description="the strongest of anomaly_reasons")
    anomaly_reasons: list[str] = Field(description="at most four, strongest first; none for an approved payment")
    decision: Literal["approve", "review", "reject"] | None
    model_version: str | None
    feature_set_id: str | None
    ruleset_version: str
    late: bool = Field(description="its event time was behind the newest of the user")
    processed_at: UtcTime
    decision_id: str = Field(description="topic, partition and offset of the payment")
    revision: int | None = Field(description="2 and more: scored later, in place of an unscored decision")
    ingested_at: UtcTime = Field(description="when the broker received the payment")


class Evidence(BaseModel):
    """What one of anomaly_reasons rests on: the payment's value beside the usual one."""

    reason: str
    measure: str
    value: float
    usual: float | None = Field(description="null where there is nothing to compare with")
    unit: str
    direction: Literal["above", "below", "new"]


class DecisionDetail(Decision):
    """One decision with its evidence: a superset of what `POST /detect` answers."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                **EXAMPLE,
                "reason_shares": [0.61, 0.18],
                "evidence": [
                    {
                        "reason": "unusual_amount_for_user",
                        "measure": "amount against the mean of 30 days",
                        "value": 1500.0,
                        "usual": 62.4,
                        "unit": "currency",
                        "direction": "above",
                    },
                    {
                        "reason": "new_merchant_for_user",
                        "measure": "earlier payments, none at this merchant",
                        "value": 50.0,
                        "usual": None,
                        "unit": "payments",
                        "direction": "new",
                    },
                ],
                "features": {"amount_log": 7.3139, "amount_ratio_30d": 2.184, "history": 3.9318},
                "side_inputs": "ms_4d0c3cf2a5b9e817",
                "artifact_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "challenger_version": None,
                "challenger_score": None,
                "seen_before": False,
            }
        }
    )

    reason_shares: list[float] = Field(description="share of the anomaly behind each of anomaly_reasons")
    evidence: list[Evidence] | None = Field(
        description="behind anomaly_reasons, in their order; null where the model service no longer holds the version, "
        "as its features may have meant something else"
    )
    features: dict[str, float] | None = Field(description="what the score was computed from, by name")
    side_inputs: str | None = Field(description="snapshot of merchants behind the features")
    artifact_sha256: str | None = Field(
        description="of the model's file; null where the model service no longer holds that version"
    )
    challenger_version: str | None = Field(description="the version on trial that scored the payment as well")
    challenger_score: float | None = Field(description="what it said, 0 to 1; the decision is not made by it")
    seen_before: bool = Field(description="the same payment arrived again later")


LONGEST_SORTED = timedelta(days=31)


class ExportFilters(Filters):
    """What the list takes beside what search takes."""

    merchant: Text | None = Field(None, description="exactly this merchant")
    location: Text | None = Field(None, description="exactly this place")
    payment_method: Text | None = Field(None, description="exactly this way to pay")
    sort: Literal["-event_time", "event_time", "-amount", "amount", "-anomaly_score", "anomaly_score"] = Field(
        "-event_time",
        description="`-` is highest first; by amount or score for a `user_id`, or from..to of 31 days at most",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Only times are kept in order: anything else is sorted when it is asked for."""
        if self.sort.endswith("event_time") or self.user_id is not None:
            return self
        if self.since is None or self.until is None or self.until - self.since > LONGEST_SORTED:
            raise PydanticCustomError("RANGE_NEEDED", "no user and no range of 31 days or less")
        return self

    @property
    def order(self) -> tuple[str, bool]:
        """Column, and whether its highest value comes first."""
        return f"d.{self.sort.removeprefix('-')}", self.sort.startswith("-")


class ListFilters(ExportFilters, Paged):
    """Page by page."""


class Page(BaseModel):
    """Decisions in the order asked for."""

    items: list[Decision]
    next_cursor: str | None = Field(description="`cursor` of the next page; null at the end")
