"""Rows of PostgreSQL as the JSON of `Decision`, in one compiled pass over what the server sent.

A page of fifty decisions has a thousand values: as Python objects, and put into JSON from there, they cost more than
finding them. `SHOWN` gives a row, of which `READ` are the columns, in the order of the schema's fields and in
PostgreSQL's binary form (its manual, "Message Formats": a count, then for each an OID, a length and the value).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from feature_repo.compiled import entry, part

TEXT, RAW, NUMBER, TIME, BOOLEAN, LIST, PLACE = range(7)
# field, expression, form. Closed sets of words need no escaping, but are text like any other.
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("transaction_id", "d.transaction_id", TEXT),
    ("user_id", "d.user_id", TEXT),
    ("amount", "d.amount::text", NUMBER),
    ("currency", "d.currency", TEXT),
    ("event_time", "d.event_time", TIME),
    ("merchant", "d.merchant", TEXT),
    ("location", "d.location", TEXT),
    ("payment_method", "d.payment_method", TEXT),
    ("outcome", "d.outcome", TEXT),
    ("unscored_reason", "d.unscored_reason", TEXT),
    ("anomaly_score", "d.anomaly_score::text", RAW),
    ("is_anomaly", "d.is_anomaly", BOOLEAN),
    ("anomaly_reason", "d.anomaly_reasons[1]", TEXT),
    ("anomaly_reasons", "array_to_json(d.anomaly_reasons)::text", LIST),
    ("decision", "d.decision", TEXT),
    ("model_version", "d.model_version", TEXT),
    ("feature_set_id", "d.feature_set_id", TEXT),
    ("ruleset_version", "d.ruleset_version", TEXT),
    ("late", "d.late", BOOLEAN),
    ("processed_at", "d.processed_at", TIME),
    ("decision_id", "d.kafka_topic", PLACE),
    ("revision", "d.id", PLACE),
    ("ingested_at", "d.ingested_at", TIME),
)
SHOWN = f"record_send(ROW({', '.join(expression for _, expression, _ in COLUMNS)}))"
READ = ", ".join(dict.fromkeys(column for _, expression, _ in COLUMNS for column in re.findall(r"d\.\w+", expression)))

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_NAMES = [name.encode() for name, _, _ in COLUMNS]
_LEADS = [(b"," if at else b"{") + b'"' + name + b'":' for at, name in enumerate(_NAMES)]
_LEAD = np.frombuffer(b"".join(_LEADS), np.uint8)
_LEAD_ENDS = np.cumsum([0, *map(len, _LEADS)])
_FORMS = np.array([form for _, _, form in COLUMNS])
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_WORDS = np.frombuffer(b"nulltruefalse[]", np.uint8)
LONGEST = 6  # bytes of JSON for a byte of text: \u001f
FIXED = 64  # bytes of JSON that a value may take beyond its text: times, booleans, null
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
DAY_US = 86_400_000_000
DAYS_BEFORE_2000 = 730_425  # from 0000-03-01 to 2000-01-01, Gregorian


@dataclass(frozen=True)
class Rendered:
    """JSON objects with `between` between them; the last row's place in the order of the list."""

    content: bytes
    shown: int
    more: bool  # rows than were asked for
    id: int
    event_time: datetime


@part
def _word(out: Bytes, at: int, words: Bytes, first: int, last: int) -> int:
    for position in range(first, last):
        out[at] = words[position]
        at += 1
    return at


@part
def _whole(data: Bytes, at: int, size: int) -> int:
    """A signed big-endian integer of 4 or 8 bytes."""
    value = np.int64(0)
    for position in range(at, at + size):
        value = value << np.int64(8) | np.int64(data[position])
    if size == 4 and value >= np.int64(2**31):
        value -= np.int64(2**32)
    return int(value)


@part
def _digits(out: Bytes, at: int, value: int, width: int) -> int:
    """`value`, not negative, in decimal with at least `width` digits."""
    size, bound = 1, np.int64(10)
    while size < 19 and value >= bound:
        size += 1
        bound *= np.int64(10)
    size = max(size, width)
    for position in range(size - 1, -1, -1):
        out[at + position] = 48 + value % 10
        value //= 10
    return at + size


@part
def _text(data: Bytes, first: int, last: int, hexadecimal: Bytes, out: Bytes, at: int) -> int:
    """A JSON string. The database holds UTF-8, which JSON takes as it is."""
    out[at] = 34
    at += 1
    for position in range(first, last):
        byte = data[position]
        if byte == 34 or byte == 92:
            out[at] = 92
            out[at + 1] = byte
            at += 2
        elif byte < 32:
            out[at], out[at + 1], out[at + 2], out[at + 3] = 92, 117, 48, 48
            out[at + 4] = hexadecimal[byte >> 4]
            out[at + 5] = hexadecimal[byte & 15]
            at += 6
        else:
            out[at] = byte
            at += 1
    out[at] = 34
    return at + 1


@part
def _number(data: Bytes, first: int, last: int, out: Bytes, at: int) -> int:
    """A decimal without zeros at its end: 1500.0000 as 1500.0."""
    while data[last - 1] == 48 and data[last - 2] != 46:
        last -= 1
    return _word(out, at, data, first, last)


@part
def _time(micros: int, out: Bytes, at: int) -> int:
    """Microseconds since 2000 as RFC 3339 with six decimals and Z, by H. Hinnant's days_from_civil turned round."""
    days = micros // DAY_US
    rest = micros - days * DAY_US
    days += DAYS_BEFORE_2000
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153  # month, March is 0
    day = of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    out[at] = 34
    at = _digits(out, at + 1, year, 4)
    out[at] = 45
    at = _digits(out, at + 1, month, 2)
    out[at] = 45
    at = _digits(out, at + 1, day, 2)
    out[at] = 84
    at = _digits(out, at + 1, rest // 3_600_000_000, 2)
    out[at] = 58
    at = _digits(out, at + 1, rest // 60_000_000 % 60, 2)
    out[at] = 58
    at = _digits(out, at + 1, rest // 1_000_000 % 60, 2)
    out[at] = 46
    at = _digits(out, at + 1, rest % 1_000_000, 6)
    out[at], out[at + 1] = 90, 34
    return at + 2


@part
def _place(data: Bytes, topic: int, topic_end: int, identity: int, hexadecimal: Bytes, out: Bytes, at: int) -> int:
    """`TOPIC-PARTITION-OFFSET` of a decision's topic and id."""
    at = _text(data, topic, topic_end, hexadecimal, out, at) - 1
    out[at] = 45
    at = _digits(out, at + 1, identity >> 48, 1)
    out[at] = 45
    at = _digits(out, at + 1, identity >> 4 & ((np.int64(1) << 44) - 1), 1)
    out[at] = 34
    return at + 1


@entry
def _render(
    data: Bytes, limit: int, between: int, lead: Bytes, lead_ends: Ints, forms: Ints, words: Bytes, hexadecimal: Bytes,
    starts: Ints, ends: Ints, out: Bytes, found: Ints,
) -> int:  # fmt: skip
    """Writes up to `limit` rows; `found` is as in Rendered, the time in microseconds since 2000. Returns the bytes."""
    at, position, shown, read, before = 0, 0, 0, 0, np.int64(-1)
    while position < data.shape[0] and read < limit:
        columns = _whole(data, position, 4)
        position += 4
        for column in range(columns):
            size = _whole(data, position + 4, 4)
            starts[column] = position + 8
            ends[column] = position + 8 + size if size >= 0 else -1
            position = max(position + 8, ends[column])
        read += 1
        identity = _whole(data, starts[21], 8)
        found[1] = identity
        found[2] = _whole(data, starts[4], 8)
        # An earlier revision, right behind the one that took its place; the very same id is of another topic.
        if identity >> 4 == before >> 4 and identity != before:
            continue
        before = identity
        if shown:
            out[at] = between
            at += 1
        shown += 1
        for column in range(columns):
            at = _word(out, at, lead, lead_ends[column], lead_ends[column + 1])
            first, last, form = starts[column], ends[column], forms[column]
            if last < 0:
                at = _word(out, at, words, 13, 15) if form == LIST else _word(out, at, words, 0, 4)
            elif column == 20:
                at = _place(data, first, last, identity, hexadecimal, out, at)
            elif column == 21:
                at = _digits(out, at, identity & 15, 1)
            elif form == TEXT:
                at = _text(data, first, last, hexadecimal, out, at)
            elif form == TIME:
                at = _time(_whole(data, first, 8), out, at)
            elif form == BOOLEAN:
                at = _word(out, at, words, 4, 8) if data[first] else _word(out, at, words, 8, 13)
            elif form == NUMBER:
                at = _number(data, first, last, out, at)
            else:
                at = _word(out, at, data, first, last)
        out[at] = 125
        at += 1
    found[0], found[3] = shown, position < data.shape[0]
    return at


class Renderer:
    """Keeps its working memory between calls; for one thread at a time."""

    def __init__(self) -> None:
        self._out = np.empty(0, np.uint8)
        self._starts, self._ends = np.zeros(len(COLUMNS), np.int64), np.zeros(len(COLUMNS), np.int64)
        self._found = np.zeros(4, np.int64)

    def render(self, records: bytes, limit: int, between: bytes = b",") -> Rendered:
        """`records`: what record_send gave for rows of SHOWN, one behind the other; the first `limit` of them."""
        data = np.frombuffer(records, np.uint8)
        enough = LONGEST * len(data) + (FIXED * len(COLUMNS) + len(_LEAD)) * limit
        if len(self._out) < enough:
            self._out = np.empty(enough, np.uint8)
        size = _render(
            data, limit, between[0], _LEAD, _LEAD_ENDS, _FORMS, _WORDS, _HEX, self._starts, self._ends, self._out,
            self._found,
        )  # fmt: skip
        shown, identity, micros, more = self._found.tolist()
        return Rendered(self._out[:size].tobytes(), shown, bool(more), identity, EPOCH + timedelta(microseconds=micros))
