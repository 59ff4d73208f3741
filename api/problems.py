"""The problem answers of the OpenAPI document."""

from typing import Any

from pydantic import BaseModel, Field

from feature_repo.problem import MEDIA_TYPE


class Finding(BaseModel):
    loc: list[str | int] = Field(description="where in the request", examples=[["query", "limit"]])
    code: str = Field(examples=["LIMIT_RANGE"])


class Problem(BaseModel):
    """`application/problem+json` (RFC 9457). Never repeats what was sent."""

    code: str = Field(description="stable name of what is wrong", examples=["LIMIT_RANGE"])
    title: str = Field(examples=["Limit range"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["limit must be a whole number from 1 to 500"])
    request_id: str = Field(description="also in X-Request-ID", examples=["4957a93f4de24c71b3be97c6b67648a4"])
    errors: list[Finding]


MEANINGS = {
    400: "Not JSON, or a cursor of another query",
    401: "No key, or one that is unknown, expired or revoked",
    403: "The key lacks the scope of this path",
    404: "Nothing is known under this id",
    409: "Not in this state: `code` says which",
    413: "More than this path takes (`TOO_LARGE`, `BATCH_TOO_LARGE`)",
    415: "Not the content type of this path",
    422: "A value is not usable; `code` says how",
    429: "Too many requests of this key or address in this minute",
    503: "A store or the model service does not answer, or too many requests are being answered; try again",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a path that can answer with these."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }
