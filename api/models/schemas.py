"""What the query service says about models and what was asked of them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.filters import Query, printable
from api.transactions.schemas import UtcTime


class Gate(BaseModel):
    """What the newest promotion request said of a version."""

    request: int
    outcome: Literal["moved", "unchanged", "refused", "failed"]
    failed: list[str] = Field(description="checks that failed, overridden or not", examples=[["slices"]])
    override: str | None = Field(description="the reason given to go past them")
    judged_at: UtcTime


class ModelVersion(BaseModel):
    """A registered version. Its numbers are in MLflow, under the run."""

    version: str = Field(examples=["3"])
    aliases: list[str] = Field(examples=[["champion"]])
    recipe: str
    feature_set_id: str
    artifact_sha256: str
    run_id: str
    created_at: UtcTime
    gate: Gate | None


class VersionDetail(ModelVersion):
    metrics: dict[str, float] = Field(
        description="as training measured them, `held_out_` on days it did not learn from; empty where the run is gone",
        examples=[{"held_out_average_precision": 0.61}],
    )


class Models(BaseModel):
    model_name: str
    aliases: dict[str, str] = Field(examples=[{"champion": "3", "previous": "2"}])
    versions: list[ModelVersion] = Field(description="newest first")


class PromotionBody(BaseModel):
    """What may be said of a promotion; an empty object will do."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=128,
        description="data set the gate judges on; the one it was trained on where none is named",
    )
    override: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(printable)] | None = Field(
        None, description="reason to go past failing checks that are not of integrity"
    )


class RollbackBody(BaseModel):
    """An empty object will do."""

    model_config = ConfigDict(extra="forbid")

    from_version: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]*$",
        max_length=19,
        description="the champion to go back from: sent twice it is done once, and where another decides it is refused",
        examples=["3"],
    )


class Accepted(BaseModel):
    """The request is written down; its URL tells what becomes of it."""

    id: int
    url: str = Field(examples=["/models/requests/7"])


class RequestDetail(BaseModel):
    """A request and, once it is finished, what became of it. Times are RFC 3339, UTC."""

    id: int
    state: Literal["waiting", "working", "finished"]
    requested_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None
    actor: str
    action: Literal["promote", "rollback", "threshold", "challenger"]
    version: str | None
    data: str | None
    override: str | None
    alert_budget: float | None
    outcome: Literal["moved", "unchanged", "refused", "failed"] | None
    code: str | None = Field(examples=["PROMOTION_REFUSED"])
    detail: str | None
    aliases_before: dict[str, str] | None
    aliases_after: dict[str, str] | None
    report: dict[str, Any] | None = Field(description="the gate's: checks, numbers, curves, slices")


class TrialRange(Query):
    hours: int = Field(1, ge=1, le=24, description="payments that arrived in the last so many hours")


class Cell(BaseModel):
    payments: int
    reported: int = Field(description="of them reported as fraud by now")


class Trial(BaseModel):
    """Payments that the champion decided and the version on trial scored as well, by who flags them."""

    champion: str
    challenger: str
    threshold: float = Field(description="of the challenger: the score from which on it would flag")
    since: UtcTime
    both: Cell
    only_champion: Cell
    only_challenger: Cell
    neither: Cell
    labelled: int = Field(description="payments of all four with any label")
