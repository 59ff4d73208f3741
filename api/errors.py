"""What the query service refuses, and how every error of it becomes `application/problem+json`."""

import logging
import traceback
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from api.headers import protect
from feature_repo.errors import (
    Family,
    MediaTypeUnsupported,
    MethodNotAllowed,
    ParameterInvalid,
    PathUnknown,
    VigilError,
)
from feature_repo.problem import MEDIA_TYPE, encode, problem

log = logging.getLogger("vigil.api")

OURS = ("api.", "feature_repo.")  # modules: where a library failed says less than where it was called


class CursorInvalid(VigilError):
    code = "CURSOR_INVALID"
    family = Family.REFUSE
    status = 400

    def __init__(self) -> None:
        super().__init__("cursor is not one this service gave for this query; start again without it")


class QuerySyntax(ParameterInvalid):
    """The search text is outside the syntax; `what` names the part of the syntax, never the text."""

    code = "QUERY_SYNTAX"

    def __init__(self, what: str) -> None:
        super().__init__("q", f"is outside the syntax: {what}")


class ParameterTwice(ParameterInvalid):
    code = "PARAMETER_TWICE"

    def __init__(self) -> None:
        super().__init__("", SENTENCES[self.code])


class TransactionUnknown(VigilError):
    code = "TRANSACTION_UNKNOWN"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("no decision is known for this transaction_id")


class UserUnknown(VigilError):
    code = "USER_UNKNOWN"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("no payment of this user was ever decided")


class NotScored(VigilError):
    """A payment without a score cannot be explained; `why` is its unscored_reason."""

    code = "NOT_SCORED"
    family = Family.REFUSE
    status = 409
    evidence = ("why",)

    def __init__(self, why: str) -> None:
        super().__init__(f"this payment has no score to explain ({why})")
        self.why = why


class ExportsBusy(VigilError):
    code = "EXPORTS_BUSY"
    family = Family.RETRY
    status = 503

    def __init__(self) -> None:
        super().__init__("as many exports as this service takes are running; try again")


class ReadersBusy(VigilError):
    code = "READERS_BUSY"
    family = Family.RETRY
    status = 503

    def __init__(self) -> None:
        super().__init__("as many readers as this service takes follow the stream; try again")


class IdempotencyKeyReused(VigilError):
    code = "IDEMPOTENCY_KEY_REUSED"
    family = Family.REFUSE
    status = 422

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key came with another body before; a new request needs a new key")


class IdempotencyInProgress(VigilError):
    code = "IDEMPOTENCY_IN_PROGRESS"
    family = Family.RETRY
    status = 409

    def __init__(self) -> None:
        super().__init__("a request with this Idempotency-Key is being worked on; ask again for its answer")


class PaymentsRefused(VigilError):
    """Payments of a batch that the contract does not take: nothing of it was produced. `findings` as (line, code,
    field), lines from 0; code and status are the first one's."""

    family = Family.REFUSE

    def __init__(self, status: int, findings: Sequence[tuple[int, str, str]], total: int) -> None:
        super().__init__(f"{total} payments of the batch are not acceptable; none was taken")
        self.code = findings[0][1]
        self.status = status
        self.findings = findings


class VersionUnknown(VigilError):
    code = "VERSION_UNKNOWN"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("the registry has no such version or alias")


class ChampionMoved(VigilError):
    code = "CHAMPION_MOVED"
    family = Family.REFUSE
    status = 409

    def __init__(self) -> None:
        super().__init__("another version decides by now than the one to go back from; look at the models again")


class NothingOnTrial(VigilError):
    code = "NOTHING_ON_TRIAL"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("no version is on trial: POST /models/{version}/challenge puts one there")


class VersionNotLoaded(VigilError):
    """`version` is what the model service does not hold, or not yet."""

    code = "VERSION_NOT_LOADED"
    family = Family.RETRY
    status = 409
    evidence = ("version",)

    def __init__(self, version: str) -> None:
        super().__init__(f"the model service has not loaded version {version}, so its threshold is not known")
        self.version = version


class RequestUnknown(VigilError):
    code = "REQUEST_UNKNOWN"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("no promotion request is known under this id")


class KeyUnknown(VigilError):
    code = "KEY_UNKNOWN"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("no key has this id")


class ExpiryPassed(VigilError):
    code = "EXPIRY_PASSED"
    family = Family.REFUSE
    status = 422

    def __init__(self) -> None:
        super().__init__("expires_at lies in the past: nobody could use the key")


# ---- what the gate refuses --------------------------------------------------------------------------


class KeyMissing(VigilError):
    code = "KEY_MISSING"
    family = Family.REFUSE
    status = 401

    def __init__(self) -> None:
        super().__init__("a key is needed: Authorization: Bearer vigil_...")


class KeyRefused(VigilError):
    """Unknown, expired or revoked: which one is nobody's business."""

    code = "KEY_REFUSED"
    family = Family.REFUSE
    status = 401

    def __init__(self) -> None:
        super().__init__("the key is unknown, expired or revoked")


class ScopeMissing(VigilError):
    code = "SCOPE_MISSING"
    family = Family.REFUSE
    status = 403
    evidence = ("scope",)

    def __init__(self, scope: str) -> None:
        super().__init__(f"the key lacks scope {scope}")
        self.scope = scope


class TooManyRequests(VigilError):
    code = "TOO_MANY_REQUESTS"
    family = Family.RETRY
    status = 429

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many requests in this minute, the next begins in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Busy(VigilError):
    code = "BUSY"
    family = Family.RETRY
    status = 503

    def __init__(self) -> None:
        super().__init__("as many requests as this service takes are being answered; try again")


class HostUnknown(VigilError):
    code = "HOST_UNKNOWN"
    family = Family.REFUSE
    status = 421

    def __init__(self) -> None:
        super().__init__("without keys this service answers to names of loopback only, such as localhost")


class ForeignSite(VigilError):
    code = "FOREIGN_SITE"
    family = Family.REFUSE
    status = 403

    def __init__(self) -> None:
        super().__init__("the page of another site sent this; the console takes only what its own pages send")


class SecureNeeded(VigilError):
    code = "SECURE_NEEDED"
    family = Family.REFUSE
    status = 403
    remedy = "put TLS in front of the query service, or come from this machine"

    def __init__(self) -> None:
        super().__init__(
            "signing in needs https: over plain http the key could be read on the way. Put TLS in front of the query"
            " service, or open the console on its own machine"
        )


class BodyNotJson(VigilError):
    code = "NOT_JSON"
    family = Family.REFUSE
    status = 400

    def __init__(self) -> None:
        super().__init__("the body is not JSON")


class BodyTooLarge(VigilError):
    code = "TOO_LARGE"
    family = Family.REFUSE
    status = 413

    def __init__(self) -> None:
        super().__init__("the body is larger than this path takes")


# ---- what FastAPI and Starlette find ----------------------------------------------------------------


class QueryInvalid(VigilError):
    """FastAPI's own finding on a request, in our codes; `findings` are (location, code), worst first."""

    family = Family.REFUSE
    status = 422

    def __init__(self, findings: Sequence[tuple[list[str | int], str]], detail: str) -> None:
        super().__init__(detail)
        self.code = findings[0][1]
        self.findings = findings


# What a person reads for a code that comes out of validation. Values sent are never repeated.
SENTENCES = {
    "LIMIT_RANGE": "limit must be a whole number from 1 to 500",
    "RANGE_ORDER": "the lower end of a range lies above its upper end",
    "RANGE_LENGTH": "the range is longer than 7 days",
    "RANGE_NEEDED": "this needs a user_id, or a range of 31 days or less: from and to",
    "PARAMETER_UNKNOWN": "a parameter is not one of this path's",
    "PARAMETER_TWICE": "a parameter is given twice",
    "TIME_NO_ZONE": "times need a zone: 2025-01-31T08:00:00Z, or a date alone for its midnight in UTC",
    "TIME_FORMAT": "times are RFC 3339: 2025-01-31T08:00:00Z, or a date alone for its midnight in UTC",
    "TIME_INVALID": "there is no such time",
    "ID_FORMAT": "identifiers are 1 to 128 characters without control characters",
}


def of_validation(errors: Sequence[Any], within: Sequence[str] = ()) -> VigilError:
    """Our error for what pydantic found within a part of the request; FastAPI's own answer would echo the input."""
    findings: list[tuple[list[str | int], str]] = []
    for found in errors:
        location, kind = [*within, *found["loc"]], str(found["type"])
        if kind == "json_invalid":
            return BodyNotJson()
        if location[-1] == "cursor":
            return CursorInvalid()
        if kind == "extra_forbidden":
            findings.append((location[:1], "PARAMETER_UNKNOWN"))  # its name is the client's text
        elif location[-1] == "q":
            return QuerySyntax("it is missing")
        elif location[-1] == "limit":
            findings.append((location, "LIMIT_RANGE"))
        elif kind in SENTENCES:
            findings.append((location, kind))
        else:
            findings.append((location, "PARAMETER_INVALID"))
    names = ", ".join(str(location[-1]) for location, _ in findings)
    return QueryInvalid(findings, SENTENCES.get(findings[0][1], f"not usable: {names}"))


def of_http(error: HTTPException, allowed: list[str]) -> VigilError:
    match error.status_code:
        case 400:  # FastAPI's only use of it: a body that is not text
            return BodyNotJson()
        case 404:
            return PathUnknown()
        case 405:
            return MethodNotAllowed(allowed)
        case 413:
            return BodyTooLarge()
        case 415:
            return MediaTypeUnsupported("application/json")
    other = VigilError("the request could not be handled")
    other.code, other.status = f"HTTP_{error.status_code}", error.status_code
    return other


def answer(request: Request, error: VigilError) -> Response:
    """The error as this service sends it."""
    identity = str(request.scope.get("vigil.request_id", ""))
    body = problem(error, identity)
    if isinstance(error, QueryInvalid):
        body["errors"] = [{"loc": location, "code": code} for location, code in error.findings]
    if isinstance(error, PaymentsRefused):
        body["errors"] = [
            {"loc": ["body", line, *([field] if field else [])], "code": code} for line, code, field in error.findings
        ]
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = "1"
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, MethodNotAllowed) and error.allowed:
        headers["Allow"] = ", ".join(error.allowed)
    response = Response(encode(body), error.status, headers, MEDIA_TYPE)
    protect(response.raw_headers, request.scope)  # what fails unexpectedly is answered outside our middleware
    return response


def _traced(error: BaseException) -> str:
    """Types of an error and of what it came from, and the last line of ours on the way. No text: it may repeat what was
    sent."""
    kinds, where = [], "a library"
    cause: BaseException | None = error
    while cause is not None:
        kinds.append(type(cause).__name__)
        for frame, line in traceback.walk_tb(cause.__traceback__):
            if frame.f_globals.get("__name__", "").startswith(OURS):
                where = f"{frame.f_code.co_filename}:{line}"
        cause = cause.__cause__
    return f"{' from '.join(kinds)} at {where}"


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem: ours, FastAPI's, Starlette's and the unexpected."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, VigilError)
        if error.status >= 500:
            log.warning("%s %s: %s", request.scope.get("vigil.request_id", ""), error.code, error)
        return answer(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, of_validation(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        allowed = (error.headers or {}).get("Allow", "")
        return answer(request, of_http(error, [name.strip() for name in allowed.split(",") if name]))

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("%s unexpected: %s", request.scope.get("vigil.request_id", ""), _traced(error))
        return answer(request, VigilError("an unexpected error; the log has it under this request id"))

    handlers: dict[Any, Any] = {
        VigilError: ours,
        RequestValidationError: invalid,
        HTTPException: http,
        Exception: unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
