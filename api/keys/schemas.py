"""What is said of keys. Only the answer that makes one holds the key itself."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.filters import Moment, printable
from api.scopes import Scope
from api.transactions.schemas import UtcTime

MAX_NAME = 100


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(printable)] = Field(
        description="who or what will use it; the audit log names it", examples=["anna's laptop"]
    )
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope), examples=[["read", "search"]])
    expires_at: Moment | None = Field(None, description="no longer good from then on; never where it is left out")


class KeyShown(BaseModel):
    """A key without its secret. Times are RFC 3339, UTC."""

    id: str = Field(description="the part of the key behind `vigil_`", examples=["1f9c2ab4c0de"])
    name: str
    scopes: list[Scope]
    created_at: UtcTime
    created_by: str
    expires_at: UtcTime | None
    last_used_at: UtcTime | None = Field(description="to within some seconds")
    revoked_at: UtcTime | None
    revoked_by: str | None


class KeyMade(KeyShown):
    key: str = Field(description="shown this once", examples=["vigil_1f9c2ab4c0de_" + "x" * 43])


class Keys(BaseModel):
    items: list[KeyShown] = Field(description="newest first, revoked and expired ones included")
