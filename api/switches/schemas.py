"""What the query service says about the switches of the stream."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.filters import printable
from api.transactions.schemas import UtcTime
from feature_repo.switches import MAX_REASON_CHARACTERS

Name = Literal["intake", "scoring"]
State = Literal["running", "paused", "scored", "rules-only"]


class Standing(BaseModel):
    """How one switch stands, and who set it so. Times are RFC 3339, UTC."""

    name: Name = Field(description="`intake`: whether another batch begins; `scoring`: whether the model is asked")
    state: State = Field(description="of intake `running` or `paused`, of scoring `scored` or `rules-only`")
    actor: str
    reason: str = Field(examples=["the model is under suspicion"])
    changed_at: UtcTime


class Change(BaseModel):
    """One throw of a switch."""

    at: UtcTime
    name: Name
    before: State
    state: State
    actor: str
    reason: str


class Switches(BaseModel):
    switches: list[Standing]
    history: list[Change] = Field(description="newest first, the last fifty")


class SwitchBody(BaseModel):
    """What a switch is to be set to, and why."""

    model_config = ConfigDict(extra="forbid")

    state: State
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON_CHARACTERS), AfterValidator(printable)]
