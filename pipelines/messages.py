"""Payments as messages: columns to the contract's JSON, one byte string per row, without a Python loop.

Values are not checked here: the producer sends what it is given and the import asks the parser, so a
value the contract refuses (no user, an amount that is text) is written as JSON says it and refused there.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.transaction import OPTIONAL, REQUIRED

FIELDS = REQUIRED + OPTIONAL
_NUMBERS = frozenset({"amount", "latitude", "longitude"})
_JSON_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_LARGEST = 2**53 / 100  # above it cents of a float are no longer exact
# Bytes that JSON text may not hold as they are: control characters, quote, backslash.
_TO_ESCAPE = np.array([byte < 0x20 or byte in b'"\\' for byte in range(256)])


def encode(payments: pa.RecordBatch | Mapping[str, pa.Array]) -> pa.BinaryArray:
    """One JSON object per row in the contract's field order; a null field is left out.

    Takes SCHEMA's columns; the time may be called event_time or timestamp and be a timestamp (UTC) or
    text, an amount may be a number or text.
    """
    columns = {name: payments[name] for name in _names(payments)}
    if "event_time" in columns:
        columns["timestamp"] = columns.pop("event_time")
    present = [name for name in FIELDS if name in columns]
    pieces: list[pa.Array | pa.Scalar] = [pa.scalar("{")]
    for position, name in enumerate(present):
        values = _json_values(name, columns[name])
        lead = f'{"," if position else ""}"{name}":'
        if values.null_count:
            pieces.append(pc.binary_join_element_wise(lead, values, ""))
        else:
            pieces += [pa.scalar(lead), values]
    # A null swallows its field name with it, above; here it adds nothing.
    text = pc.binary_join_element_wise(*pieces, "}", "", null_handling="replace", null_replacement="")
    if columns[present[0]].null_count:
        text = pc.replace_substring(text, "{,", "{", max_replacements=1)
    return text.cast(pa.binary())


def _names(payments: pa.RecordBatch | Mapping[str, pa.Array]) -> list[str]:
    return list(payments) if isinstance(payments, Mapping) else list(payments.schema.names)


def _json_values(name: str, values: pa.Array) -> pa.StringArray:
    """The JSON text of each value, null where it is null."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_temporal(values.type):
        return _times(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        text = values.cast(pa.string())
        if name not in _NUMBERS:
            return _quoted(text)
        return pc.if_else(pc.match_substring_regex(text, _JSON_NUMBER), text, _quoted(text))
    if pa.types.is_floating(values.type):
        return _floats(values.cast(pa.float64()))
    if pa.types.is_boolean(values.type):
        return values.cast(pa.string())
    text = values.cast(pa.string())  # integers and decimals
    return text if name in _NUMBERS else _quoted(text)


def _quoted(text: pa.StringArray) -> pa.StringArray:
    """JSON strings. Looks at all bytes once; only rows that need it are escaped one by one."""
    quoted = pc.binary_join_element_wise('"', text, '"', "")
    buffer = text.buffers()[2]
    if buffer is None or not _TO_ESCAPE[np.frombuffer(buffer, dtype=np.uint8)].any():
        return quoted
    risky = pc.match_substring_regex(text, r'["\\\x00-\x1f]').fill_null(False)
    escaped = [json.dumps(value, ensure_ascii=False) for value in text.filter(risky).to_pylist()]
    return pc.replace_with_mask(quoted, risky, pa.array(escaped, pa.string()))


def _times(values: pa.Array) -> pa.StringArray:
    """RFC 3339 in UTC with microseconds."""
    naive = values.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us")).cast(pa.string())
    return pc.binary_join_element_wise('"', pc.utf8_replace_slice(naive, 10, 11, "T"), 'Z"', "")


def _floats(values: pa.DoubleArray) -> pa.StringArray:
    """Shortest text that reads back as the same number; plain cents where all are cents."""
    numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all():
        text = [None if value is None else json.dumps(value) for value in values.to_pylist()]
        return pa.array(text, pa.string())
    if (numbers < 0).any() or (numbers >= _LARGEST).any():
        return values.cast(pa.string())
    cents = np.rint(numbers * 100)
    if (cents / 100 != numbers).any():
        return values.cast(pa.string())
    whole, rest = np.divmod(cents.astype(np.int64), 100)
    hundredths = pa.array([f"{number:02d}" for number in range(100)]).take(pa.array(rest))
    text = pc.binary_join_element_wise(pa.array(whole).cast(pa.string()), hundredths, ".")
    return pc.if_else(values.is_valid(), text, pa.scalar(None, pa.string()))
