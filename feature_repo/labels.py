"""Labels: what was learnt of a payment, and when. The contract of topic `labels`, as code.

One label is one small JSON object; there are thousands a day, not thousands a second.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feature_repo.codes import Code
from feature_repo.errors import BadRecord
from feature_repo.redaction import holds_card_number
from feature_repo.transaction import MAX_ID_CHARACTERS, MAX_PAYLOAD_BYTES

FIELDS = ("transaction_id", "is_fraud", "label_time", "source")
REQUIRED = FIELDS[:3]
MAX_SOURCE_CHARACTERS = 64
UNNAMED = "unnamed"  # source of a label that names none

# Bytes of `labels`: writing one again changes nothing. Of two that differ in is_fraud only, the first stays.
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
    if not payload.strip():
        raise refused(Code.EMPTY)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise refused(Code.TOO_LARGE)
    try:
        document = json.loads(payload.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise refused(Code.NOT_UTF8) from error
    except RecursionError as error:
        raise refused(Code.TOO_DEEP) from error
    except ValueError as error:
        raise refused(Code.NOT_JSON) from error
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise refused(Code.DUPLICATE_KEY, "a field")
    return found


def _text(value: Any, field: str, longest: int) -> str:
    if not isinstance(value, str):
        raise refused(Code.TYPE, field)
    if not value.strip() or len(value) > longest or not value.isprintable():
        raise refused(Code.ID_FORMAT, field)
    if field == "source" and holds_card_number(value):
        raise refused(Code.PAN_DETECTED, field)
    return value


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        time = value
    elif not isinstance(value, str):
        raise refused(Code.TYPE, "label_time")
    else:
        try:
            time = datetime.fromisoformat(value)
        except ValueError as error:
            raise refused(Code.TIME_FORMAT, "label_time") from error
    if time.tzinfo is None:
        raise refused(Code.TIME_NO_ZONE, "label_time")
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise refused(Code.TIME_INVALID, "label_time") from error
