"""What is known of a user."""

from pydantic import BaseModel, Field

from api.transactions.schemas import Decision, UtcTime


class Tag(BaseModel):
    """Something worth knowing of a user, and since when."""

    name: str = Field(description="reported_fraud, flagged, sparse or silent", examples=["reported_fraud"])
    since: UtcTime = Field(description="of the newest payment, label or decision it rests on")


class User(BaseModel):
    user_id: str
    features: dict[str, float | int | str | None] | None = Field(
        description="the user's state in the feature store now, by name; null where it holds nothing of the user, "
        "or does not answer",
        examples=[{"payments": 41, "payments_24h": 2, "mean_amount_30d": 37.2, "last_seen": "2026-11-27T08:00:00Z"}],
    )
    features_unavailable: str | None = Field(
        description="why features are not known, as the code of a problem; null where the feature store was asked",
        examples=["DEPENDENCY_DOWN"],
    )
    tags: list[Tag] = Field(
        description="from what was decided and labelled; sparse and silent rest on features, and are left out where "
        "those are unavailable"
    )
    payments: list[Decision] = Field(description="newest first; `GET /transactions?user_id=` has all")
