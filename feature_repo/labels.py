"""Labels: what was learnt of a payment, and when. The contract of topic `labels`, as code.

One label is one small JSON object; there are thousands a day, not thousands a second. What a payment may be called,
and when, is what its own contract says, under the same codes.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from math import isfinite
from typing import Any, NoReturn

from feature_repo.codes import Code
from feature_repo.errors import BadRecord
from feature_repo.normal import is_wellformed
from feature_repo.redaction import holds_card_number
from feature_repo.transaction import MAX_ID_CHARACTERS, MAX_PAYLOAD_BYTES

TOPIC = "labels"
FIELDS = ("transaction_id", "is_fraud", "label_time", "source")
REQUIRED = FIELDS[:3]
MAX_SOURCE_CHARACTERS = 64
MAX_DEPTH = 16  # of nested objects and arrays
MAX_KEYS = 1_000  # of one object
UNNAMED = "unnamed"  # source of a label that names none

# As feature_repo.literals.time reads it.
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-](\d\d):(\d\d))?", re.ASCII
)

# Rows of `labels`: writing one again changes nothing. Of two that differ in is_fraud only, the first stays.
INSERT = """INSERT INTO labels (transaction_id, is_fraud, label_time, source) VALUES %s
    ON CONFLICT (transaction_id, label_time, source) DO NOTHING"""


@dataclass(frozen=True)
class Label:
    """`label_time` is when it was learnt, UTC; `source` says by whom."""

    transaction_id: str
    is_fraud: bool
    label_time: datetime
    source: str

    @property
    def row(self) -> tuple[str, bool, datetime, str]:
        """Values of INSERT."""
        return (self.transaction_id, self.is_fraud, self.label_time, self.source)


def parse(payload: bytes | None, now: datetime, ahead_s: float) -> Label:
    """One label as it is on the wire. Raises BadRecord with a code of `Code`; never echoes what was sent.

    A label learnt more than `ahead_s` seconds after `now` is refused: nobody can know it yet.
    """
    if payload is None:
        raise refused(Code.TOMBSTONE)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise refused(Code.TOO_LARGE)
    document = _document(payload)
    if document is None:
        raise refused(Code.EMPTY)
    if not isinstance(document, dict):
        raise refused(Code.NOT_OBJECT)
    return of_fields(document, now, ahead_s)


def of_fields(document: dict[str, Any], now: datetime, ahead_s: float) -> Label:
    """The same checks on values by name; fields beyond FIELDS are ignored. Raises BadRecord."""
    for field in REQUIRED:
        if document.get(field) is None:
            raise refused(Code.FIELD_MISSING, field)
    transaction_id, is_fraud = document["transaction_id"], document["is_fraud"]
    if not isinstance(is_fraud, bool):
        raise refused(Code.TYPE, "is_fraud")
    label_time = _time(document["label_time"])
    if (label_time - now).total_seconds() > ahead_s:
        raise refused(Code.TIME_FUTURE, "label_time")
    source = document.get("source")
    return Label(
        _text(transaction_id, "transaction_id", MAX_ID_CHARACTERS),
        is_fraud,
        label_time,
        UNNAMED if source is None else _text(source, "source", MAX_SOURCE_CHARACTERS),
    )


def refused(code: Code, field: str = "") -> BadRecord:
    return BadRecord(code.value, code.sentence.format(field=field), status=code.status, field=field)


def _document(payload: bytes) -> Any:
    """JSON under the rules of a payment's; None where there is nothing."""
    try:
        text = payload.decode("utf-8")
        if not text.strip(" \t\r\n"):
            return None
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_not_finite, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise refused(Code.NOT_UTF8) from error
    except RecursionError as error:
        raise refused(Code.TOO_DEEP) from error
    except ValueError as error:
        raise refused(Code.NOT_JSON) from error
    _look_through(document, 0)
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise refused(Code.TOO_LARGE)
    found = dict(pairs)
    if len(found) < len(pairs):
        raise refused(Code.DUPLICATE_KEY, "a field")
    return found


def _finite(literal: str) -> float:
    value = float(literal)
    return value if isfinite(value) else _not_finite(literal)


def _not_finite(_: str) -> NoReturn:
    raise refused(Code.NUMBER_NOT_FINITE, "a field")


def _look_through(value: Any, depth: int) -> None:
    """Nothing nested too deep, no half of a surrogate pair, in fields of ours or others'."""
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise refused(Code.INVALID_UNICODE, "a field")
    elif isinstance(value, list | dict):
        if depth == MAX_DEPTH:
            raise refused(Code.TOO_DEEP)
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _look_through(part, depth + 1)


def _text(value: Any, field: str, longest: int) -> str:
    if not isinstance(value, str):
        raise refused(Code.TYPE, field)
    if not is_wellformed(value, longest):
        raise refused(Code.ID_FORMAT, field)
    if field == "source" and holds_card_number(value):
        raise refused(Code.PAN_DETECTED, field)
    return value


def _time(value: Any) -> datetime:
    """A time in UTC under the rules of a payment's, or one that a file gave as such."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise refused(Code.TIME_NO_ZONE, "label_time")
        return _in_utc(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refused(Code.TIME_FORMAT, "label_time")
    if not isinstance(value, str):
        raise refused(Code.TYPE, "label_time")
    match = _RFC3339.fullmatch(value)
    if match is None:
        raise refused(Code.TIME_FORMAT, "label_time")
    *numbers, fraction, zone, hours, minutes = match.groups()
    if zone is None:
        raise refused(Code.TIME_NO_ZONE, "label_time")
    year, month, day, hour, minute, second = map(int, numbers)
    ahead = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    leap = second == 60
    try:
        if int(minutes or 0) > 59:
            raise ValueError("an hour has sixty minutes")
        offset = timezone(-ahead if zone.startswith("-") else ahead)
        micros = int((fraction or "")[:6].ljust(6, "0"))
        time = _in_utc(datetime(year, month, day, hour, minute, 59 if leap else second, micros, offset))
        time += timedelta(seconds=leap)
    except (ValueError, OverflowError) as error:
        raise refused(Code.TIME_INVALID, "label_time") from error
    if leap and (time.day, time.hour, time.minute, time.second) != (1, 0, 0, 0):  # it ends a month, in UTC
        raise refused(Code.TIME_INVALID, "label_time")
    return time


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise refused(Code.TIME_INVALID, "label_time") from error
