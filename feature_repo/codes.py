"""Why a record is not accepted: every code once, with its HTTP status and its sentence.

The API answers with `code` and `status`; on the stream the same code is the dead letter's.
A sentence names the field at most, never what the field held.
"""

from enum import StrEnum


class Code(StrEnum):
    """`Code.RANGE == "RANGE"`; `.status` is the API's, `.sentence` holds `{field}` where one is to blame."""

    status: int
    sentence: str

    def __new__(cls, code: str, status: int = 0, sentence: str = "") -> "Code":
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        member.sentence = sentence
        return member

    # the document
    EMPTY = "EMPTY", 400, "the message is empty"
    TOMBSTONE = "TOMBSTONE", 400, "the record has no value"
    NOT_UTF8 = "NOT_UTF8", 400, "the message is not UTF-8"
    NOT_JSON = "NOT_JSON", 400, "the message is not one JSON document"
    NOT_OBJECT = "NOT_OBJECT", 400, "the message is JSON, but not an object"
    TOO_DEEP = "TOO_DEEP", 400, "objects and arrays are nested more than 16 deep"
    TOO_LARGE = "TOO_LARGE", 413, "the message is larger than 64 KiB"
    DUPLICATE_KEY = "DUPLICATE_KEY", 422, "{field} is given more than once"
    NUMBER_NOT_FINITE = "NUMBER_NOT_FINITE", 422, "{field} is not a finite number"
    INVALID_UNICODE = "INVALID_UNICODE", 422, "{field} holds half of a surrogate pair"

    # its fields
    FIELD_MISSING = "FIELD_MISSING", 422, "{field} is missing or null"
    TYPE = "TYPE", 422, "{field} has the wrong JSON type"
    RANGE = "RANGE", 422, "{field} is out of range"
    PRECISION = "PRECISION", 422, "{field} has more than 4 decimals"
    ID_FORMAT = (
        "ID_FORMAT",
        422,
        "{field} is empty, blank, longer than 128 characters or has control characters",
    )
    TEXT_FORMAT = (
        "TEXT_FORMAT",
        422,
        "{field} is empty, blank, longer than 256 characters or has control characters",
    )
    TIME_NO_ZONE = "TIME_NO_ZONE", 422, "{field} has no zone; end it with Z or an offset like +02:00"
    TIME_FORMAT = "TIME_FORMAT", 422, "{field} is not an RFC 3339 time like 1985-04-12T23:20:50Z"
    TIME_INVALID = "TIME_INVALID", 422, "{field} is a date or time that does not exist"
    TIME_FUTURE = "TIME_FUTURE", 422, "{field} is too far ahead of the clock"
    PAN_DETECTED = "PAN_DETECTED", 422, "{field} holds what looks like a card number"

    # found later, by who knows the user and the partition
    ID_CONFLICT = "ID_CONFLICT", 409, "the transaction id was already used for another payment"
    REKEYED = "REKEYED", 409, "the record was not where its user's records go; it was produced again there"
    KEY_MISMATCH = "KEY_MISMATCH", 409, "the record was misplaced a second time"
    PROCESSING_FAILED = "PROCESSING_FAILED", 422, "the record could not be processed or stored"
