"""A decision taken apart."""

from pydantic import BaseModel, Field

from api.transactions.schemas import Evidence, UtcTime


class Part(BaseModel):
    """One feature the model reads."""

    name: str = Field(examples=["amount_ratio_30d"])
    window: str = Field(description="what it looks back on", examples=["30 days"])
    meaning: str = Field(examples=["above(amount / mean amount), shrunk"])
    reason: str = Field(description="the reason it speaks for", examples=["unusual_amount_for_user"])
    value: float = Field(description="at the time of the decision")
    usual: float | None = Field(description="for a usual payment of the user; null where nothing tells")
    contribution: float = Field(description="its part of the anomaly; all parts sum to 1")


class WhatIf(BaseModel):
    """What the same model says with some of the features at their usual values."""

    usual: list[str] = Field(description="reasons whose features are taken as usual")
    anomaly_score: float
    is_anomaly: bool


class Explanation(BaseModel):
    """Why a payment was decided as it was. Times are UTC."""

    transaction_id: str
    user_id: str
    decision_id: str
    event_time: UtcTime
    decision: str
    anomaly_score: float = Field(description="as decided")
    is_anomaly: bool
    anomaly_reasons: list[str]
    evidence: list[Evidence] = Field(description="what the reasons rest on, in words and units")
    model_version: str
    feature_set_id: str
    ruleset_version: str
    side_inputs: str | None
    artifact_sha256: str | None = Field(description="null where the model service no longer holds that version")
    threshold: float | None = Field(description="score from which on a payment is an anomaly")
    features: list[Part] | None = Field(description="largest contribution first; null without the version")
    what_if: list[WhatIf] | None = Field(
        description="with all reasons as usual, then with each alone; empty without reasons, null without the version"
    )
