"""A user's own file: which of its columns are the contract's fields, and their values as messages hold them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import BadConfiguration
from feature_repo.transaction import OPTIONAL, REQUIRED

LABELS = ("is_fraud", "label_time", "arrival_time")
FIELDS = REQUIRED + OPTIONAL + LABELS
_ALSO_CALLED = {"timestamp": "event_time"}  # what our own histories call it
_US = pa.timestamp("us", tz="UTC")
_ZONE = r"([Zz]|[+-][0-9]{2}:?[0-9]{2})$"
_TRUE, _FALSE = ["true", "t", "yes", "y", "1", "1.0"], ["false", "f", "no", "n", "0", "0.0"]


@dataclass(frozen=True)
class Plan:
    """How to read a file. `columns` maps fields to the file's columns, `constants` fields to one value for all."""

    columns: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    timezone: str = "UTC"  # of times that name no zone

    @classmethod
    def of(cls, present: list[str], columns: Mapping[str, str], constants: Mapping[str, str], timezone: str) -> "Plan":
        """Completes `columns` by equal names. Raises BadConfiguration naming the field or column at fault."""
        for name in [*columns, *constants]:
            if name not in FIELDS:
                raise BadConfiguration(f"{name} is no field of the contract{_nearest(name, FIELDS)}")
        for name, column in columns.items():
            if column not in present:
                raise BadConfiguration(f"the file has no column {column} for {name}{_nearest(column, present)}")
        chosen = dict(columns)
        for name in FIELDS:
            for called in (name, _ALSO_CALLED.get(name, name)):
                if name not in chosen and name not in constants and called in present:
                    chosen[name] = called
        missing = [name for name in REQUIRED if name not in chosen and name not in constants]
        if missing:
            raise BadConfiguration(
                f"the file has no column for {', '.join(missing)}; its columns are {', '.join(present)}",
                remedy=f"--map {missing[0]}=COLUMN, or --constant {missing[0]}=VALUE for one value everywhere",
            )
        try:
            pc.assume_timezone(pa.array([0], pa.timestamp("us")), timezone)
        except pa.ArrowInvalid:
            raise BadConfiguration(f"{timezone} is no time zone, such as UTC or Europe/Berlin") from None
        return cls(chosen, dict(constants), timezone)


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def payment_columns(batch: pa.RecordBatch, plan: Plan) -> dict[str, pa.Array]:
    """The contract's fields of a batch, ready for messages.encode."""
    columns: dict[str, pa.Array] = {}
    for name in REQUIRED + OPTIONAL:
        if name in plan.constants:
            columns[name] = pa.array([plan.constants[name]], pa.string()).take(_zeros(batch.num_rows))
        elif name in plan.columns:
            columns[name] = _plain(batch[plan.columns[name]])
    columns["timestamp"] = _with_zone(columns["timestamp"], plan.timezone)
    return columns


def times(batch: pa.RecordBatch, name: str, plan: Plan) -> tuple[pa.TimestampArray, np.ndarray]:
    """A label's times (null where none or unreadable) and bool[n]: given but unreadable."""
    if name not in plan.columns:
        return pa.nulls(batch.num_rows, _US), np.zeros(batch.num_rows, dtype=bool)
    given = _with_zone(_plain(batch[plan.columns[name]]), plan.timezone)
    if pa.types.is_timestamp(given.type):
        return given, np.zeros(batch.num_rows, dtype=bool)
    import pandas as pd

    read = pd.to_datetime(given.cast(pa.string()).to_pandas(), utc=True, format="ISO8601", errors="coerce")
    result = pa.Array.from_pandas(read).cast(_US, safe=False)
    return result, _flags(pc.and_(given.is_valid(), result.is_null()))


def is_fraud(batch: pa.RecordBatch, plan: Plan) -> tuple[pa.BooleanArray, np.ndarray]:
    """Labels (null where none or unreadable) and bool[n]: given but unreadable."""
    if "is_fraud" not in plan.columns:
        return pa.nulls(batch.num_rows, pa.bool_()), np.zeros(batch.num_rows, dtype=bool)
    given = _plain(batch[plan.columns["is_fraud"]])
    text = pc.utf8_trim_whitespace(pc.utf8_lower(given.cast(pa.string())))
    yes, no = pc.is_in(text, pa.array(_TRUE)), pc.is_in(text, pa.array(_FALSE))
    label = pc.if_else(yes, pa.scalar(True), pc.if_else(no, pa.scalar(False), pa.scalar(None, pa.bool_())))
    return label, _flags(pc.and_(given.is_valid(), label.is_null()))


def _plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _flags(values: pa.BooleanArray) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, np.int8))


def _with_zone(values: pa.Array, timezone: str) -> pa.Array:
    """Times as UTC timestamps, or as RFC 3339 text where they came as text; other types as they are."""
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us", tz=values.type.tz), safe=False)
        return values if values.type.tz else pc.assume_timezone(values, timezone, nonexistent="latest").cast(_US)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values
    text = pc.replace_substring_regex(values.cast(pa.string()), r"^([0-9-]{10}) ", r"\1T", max_replacements=1)
    zoneless = pc.invert(pc.match_substring_regex(text, _ZONE))
    if timezone == "UTC":
        return pc.if_else(zoneless, pc.binary_join_element_wise(text, "Z", ""), text)
    return pc.if_else(zoneless, _localised(text, timezone), text)


def _localised(text: pa.StringArray, timezone: str) -> pa.StringArray:
    """Text of local times as UTC; what cannot be read or does not exist stays as it is, for the parser to name."""
    import pandas as pd

    zoneless = _flags(pc.invert(pc.match_substring_regex(text, _ZONE)).fill_null(False))
    naive = pd.to_datetime(text.to_pandas().where(zoneless), format="ISO8601", errors="coerce")
    local = naive.dt.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")
    return pc.coalesce(pa.array(local.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), pa.string(), from_pandas=True), text)
