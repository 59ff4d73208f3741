"""What the query service says about payments over time."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from api.filters import Identifier, Moment, Paged
from api.transactions.schemas import UtcTime

Kind = Literal["merchant", "payment_method", "user"]


class WindowFilters(Paged):
    """What windows are filtered by."""

    kind: Kind = Field("merchant", description="minutes of merchants or of payment methods, or bursts of users")
    key: Identifier | None = Field(None, description="this merchant, payment method or user only")
    from_: Moment | None = Field(None, alias="from", description="windows that ended after this")
    to: Moment | None = Field(None, description="windows that ended at or before this")

    @model_validator(mode="after")
    def _in_order(self) -> "WindowFilters":
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise PydanticCustomError("RANGE_ORDER", "from is after to")
        return self


class Window(BaseModel):
    """Payments of one merchant, payment method or user in one stretch of time. Times are UTC."""

    kind: Kind
    key: str = Field(description="the merchant, payment method or user", examples=["Online Store"])
    started_at: UtcTime = Field(description="of a burst: its first payment")
    ended_at: UtcTime = Field(description="of a burst: five minutes after its last payment")
    payments: int = Field(description="without repeated and late ones", examples=[42])
    amount: float = Field(description="sum, in the configured currency", examples=[2620.8])
    mean_amount: float = Field(examples=[62.4])
    scored: int = Field(examples=[40])
    flagged: int = Field(description="of the scored: anomalies", examples=[2])
    flagged_share: float | None = Field(description="of the scored; null where none was", examples=[0.05])
    final: bool = Field(description="no payment can come to it any more")


class Windows(BaseModel):
    """Windows, newest end first."""

    items: list[Window]
    next_cursor: str | None = Field(description="`cursor` of the next page; null at the end")
    watermark: UtcTime | None = Field(description="windows that end before it are final; null before anything counted")
    late_payments: int = Field(description="came behind the watermark and are in no window, since counting began")
    counted_at: UtcTime | None = Field(description="when the newest batch was counted")
