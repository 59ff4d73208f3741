"""What decisions can be filtered by, the same for the list and for search."""

import re
import unicodedata
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.errors import ParameterTwice
from feature_repo.features import Reason

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
MAX_AMOUNT = Decimal(10) ** 14  # what decisions.amount, numeric(18,4), can hold
SCALE = Decimal("0.0001")  # its smallest step
# Of time as Python has it: what a span would reach beyond is cut off.
BEGINNING, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII)


def moment(text: Any) -> datetime:
    """An RFC 3339 time with its zone, or a date for its midnight in UTC; always given back in UTC."""
    if not isinstance(text, str) or not (_DATE.fullmatch(text) or _TIME.fullmatch(text)):
        raise PydanticCustomError("TIME_FORMAT", "not an RFC 3339 time")
    try:
        if _DATE.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        parsed = datetime.fromisoformat(text.upper())
        if parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("TIME_INVALID", "no such time") from None
    raise PydanticCustomError("TIME_NO_ZONE", "a time without a zone")


def printable(text: str) -> str:
    """Text as it may stand in an identifier; a NUL would not even reach PostgreSQL."""
    if not text.strip() or any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise PydanticCustomError("ID_FORMAT", "blank, or with control characters")
    return text


Moment = Annotated[datetime, BeforeValidator(moment)]
Identifier = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(printable)]
# 0e-20000 has no decimal place and passes, yet PostgreSQL takes no such exponent: all are written with SCALE's.
Amount = Annotated[
    Decimal, Field(ge=0, le=MAX_AMOUNT, decimal_places=4), AfterValidator(lambda amount: amount.quantize(SCALE))
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]


async def once(request: Request) -> None:
    """A dependency: of a parameter given twice only one value would count. Raises ParameterTwice."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise ParameterTwice


def composed(text: str) -> str:
    """Text in the normal form in which payments are stored."""
    return unicodedata.normalize("NFC", printable(text))


Text = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(composed)]


class Query(BaseModel):
    """Query parameters. Anything else in the query is refused: a typo must not widen a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paged(Query):
    """Of a list that is read page by page."""

    limit: Limit = Field(DEFAULT_LIMIT, description="results per page")
    cursor: str | None = Field(None, description="`next_cursor` of the page before", max_length=512)

    def identity(self, path: str) -> str:
        """Names the question without its page: a cursor belongs to it."""
        asked = self.model_dump_json(exclude={"cursor", "limit"}, exclude_none=True)
        return f"{path} {asked}"


class Range(Query):
    """Of time, under two names."""

    from_: Moment | None = Field(None, alias="from", description="event_time at or after this")
    to: Moment | None = Field(None, description="event_time before this")
    start_time: Moment | None = Field(None, description="another name of `from`")
    end_time: Moment | None = Field(None, description="another name of `to`")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for one, other in ((self.from_, self.start_time), (self.to, self.end_time)):
            if one is not None and other is not None:
                raise PydanticCustomError("PARAMETER_TWICE", "the same bound under both its names")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise PydanticCustomError("RANGE_ORDER", "from is after to")
        return self

    @property
    def since(self) -> datetime | None:
        """Event time at or after this."""
        return self.from_ if self.from_ is not None else self.start_time

    @property
    def until(self) -> datetime | None:
        """Event time before this."""
        return self.to if self.to is not None else self.end_time

    def starting(self, since: datetime) -> Self:
        """The same with another lower bound."""
        return self.model_copy(update={"from_": since, "start_time": None})


class Filters(Range):
    """What decisions are filtered by, in the list and in search."""

    user_id: Identifier | None = Field(None, description="payments of this user only")
    min_amount: Amount | None = Field(None, description="amount at or above this, of four decimals at most")
    max_amount: Amount | None = Field(None, description="amount at or below this, of four decimals at most")
    is_anomaly: bool | None = Field(None, description="only anomalies, or only the others that have a score")
    model_version: Identifier | None = Field(None, description="scored by this version of the model")
    decision: Literal["approve", "review", "reject"] | None = Field(None, description="as decided")
    reason: Reason | None = Field(None, description="among anomaly_reasons")
    outcome: Literal["scored", "unscored", "duplicate"] | None = Field(
        None, description="scored and unscored ones are shown when this is not given"
    )

    @model_validator(mode="after")
    def _amounts_in_order(self) -> Self:
        if self.min_amount is not None and self.max_amount is not None and self.min_amount > self.max_amount:
            raise PydanticCustomError("RANGE_ORDER", "min_amount is above max_amount")
        return self
