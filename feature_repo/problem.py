"""An error as an HTTP answer: `application/problem+json` (RFC 9457), the same from every service of ours.

A problem says which field is wrong and how, and never what was sent.
"""

import json
import re
import uuid

from feature_repo.errors import BadRecord, DependencyDown, FeatureInvalid, ParameterInvalid, VigilError

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-ID"
_REQUEST_ID_FORMAT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(offered: str | None) -> str:
    """The caller's id of a request where it can be logged as it is, else a new one."""
    if offered is not None and _REQUEST_ID_FORMAT.fullmatch(offered):
        return offered
    return uuid.uuid4().hex


def problem(error: VigilError, request_id: str) -> dict[str, object]:
    """{code, title, status, detail, request_id, errors[{loc, code}]} and the error's evidence beside them."""
    detail = error.message
    if isinstance(error, DependencyDown):
        detail = f"{error.dependency} does not answer"  # its address and cause are for the log
    return {
        "code": error.code,
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": detail,
        "request_id": request_id,
        "errors": [{"loc": location, "code": error.code} for location in _locations(error)],
        **{name: getattr(error, name) for name in error.evidence},
    }


def encode(body: dict[str, object]) -> bytes:
    """JSON in ASCII: nothing in it, a lone surrogate included, can fail to be sent."""
    return json.dumps(body, allow_nan=False).encode("ascii")


def _locations(error: VigilError) -> list[list[str | int]]:
    match error:
        case BadRecord(field=field) if field:
            return [["body", field]]
        case FeatureInvalid():
            return [["body", error.row, error.column]]
        case ParameterInvalid(name=name) if name:
            return [["query", name]]
    return []
