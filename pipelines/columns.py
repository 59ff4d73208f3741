"""A user's own file: which of its columns are the contract's fields, and their values as messages hold them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import BadConfiguration
from feature_repo.transaction import OPTIONAL, REQUIRED

LABELS = ("is_fraud", "label_time")
FIELDS = (*REQUIRED, *OPTIONAL, *LABELS, "arrival_time")
_CONSTANT = ("merchant", "location", "payment_method", *OPTIONAL)  # what may have one value for all rows
_ALSO_CALLED = {"timestamp": "event_time"}  # what our own histories call it
_US = pa.timestamp("us", tz="UTC")
_ZONE = r"([Zz]|[+-][0-9]{2}:?[0-9]{2})$"
_NUMBERS = frozenset({"amount", "latitude", "longitude"})
_EPOCH = {"epoch": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}  # time formats, microseconds per unit
_TRUE, _FALSE = ["true", "t", "yes", "y", "1", "1.0"], ["false", "f", "no", "n", "0", "0.0"]


@dataclass(frozen=True)
class Plan:
    """How to read a file. `columns` maps fields to the file's columns, `constants` fields to one value for all."""

    columns: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    timezone: str = "UTC"  # of times that name no zone
    time_format: str | None = None  # of strptime, or one of _EPOCH; what it does not fit is read as ISO 8601

    @classmethod
    def of(
        cls,
        present: list[str],
        columns: Mapping[str, str],
        constants: Mapping[str, str],
        timezone: str = "UTC",
        time_format: str | None = None,
    ) -> "Plan":
        """Completes `columns` by equal names. Raises BadConfiguration naming the field or column at fault."""
        for name in [*columns, *constants]:
            if name not in FIELDS:
                raise BadConfiguration(f"{name} is no field of the contract{_nearest(name, FIELDS)}")
        for name in constants:
            if name in columns or name not in _CONSTANT:
                raise BadConfiguration(f"{name} cannot have one value for all rows", remedy=f"--map {name}=COLUMN")
        chosen = _chosen(present, columns, tuple(name for name in FIELDS if name not in constants))
        missing = [name for name in REQUIRED if name not in chosen and name not in constants]
        if missing:
            raise BadConfiguration(
                f"the file has no column for {', '.join(missing)}; its columns are {', '.join(present)}",
                remedy=", ".join(
                    f"--constant {name}=unknown" if name in _CONSTANT else f"--map {name}=COLUMN" for name in missing
                ),
            )
        _check_times(timezone, time_format)
        return cls(chosen, dict(constants), timezone, time_format)

    def without(self, fields: tuple[str, ...]) -> "Plan":
        return replace(self, columns={name: column for name, column in self.columns.items() if name not in fields})

    @classmethod
    def of_labels(cls, present: list[str], columns: Mapping[str, str], times: "Plan") -> "Plan":
        """Of a file that holds labels alone, times as in `times`; `columns` may name columns of the payments."""
        names = {name: column for name, column in columns.items() if name in LABELS or column in present}
        chosen = _chosen(present, names, ("transaction_id", *LABELS))
        if "transaction_id" not in chosen or len(chosen) == 1:
            wanted = "transaction_id" if "transaction_id" not in chosen else "is_fraud or label_time"
            raise BadConfiguration(f"the labels have no column for {wanted}; their columns are {', '.join(present)}")
        return cls(chosen, {}, times.timezone, times.time_format)


def _chosen(present: list[str], columns: Mapping[str, str], fields: tuple[str, ...]) -> dict[str, str]:
    """The given columns and, for the other fields, those of the same name."""
    for name, column in columns.items():
        if column not in present:
            raise BadConfiguration(f"the file has no column {column} for {name}{_nearest(column, present)}")
    chosen = {name: column for name, column in columns.items() if name in fields}
    for name in fields:
        for called in (name, _ALSO_CALLED.get(name, name)):
            if name not in chosen and called in present:
                chosen[name] = called
    return chosen


def _check_times(timezone: str, time_format: str | None) -> None:
    try:
        pc.assume_timezone(pa.array([0], pa.timestamp("us")), timezone)
    except pa.ArrowInvalid:
        raise BadConfiguration(f"{timezone} is no time zone, such as UTC or Europe/Berlin") from None
    if time_format and time_format not in _EPOCH and "%" not in time_format:
        raise BadConfiguration(
            f"{time_format!r} is no time format: like '%d/%m/%Y %H:%M', or one of {', '.join(_EPOCH)}"
        )


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def payment_columns(batch: pa.RecordBatch, plan: Plan) -> dict[str, pa.Array]:
    """The contract's fields of a batch, ready for messages.encode."""
    columns: dict[str, pa.Array] = {}
    for name in REQUIRED + OPTIONAL:
        if name in plan.constants:
            columns[name] = pa.array([plan.constants[name]], pa.string()).take(_zeros(batch.num_rows))
        elif name in plan.columns and name == "timestamp":
            columns[name] = _with_zone(_trimmed(batch[plan.columns[name]]), plan)
        elif name in plan.columns:
            column = batch[plan.columns[name]]
            columns[name] = _trimmed(column) if name in _NUMBERS else as_text(column)
    return columns


def as_text(values: pa.Array) -> pa.Array:
    """A column of ids or words as text: whole numbers without a point, however the file holds them."""
    values = _plain(values)
    if pa.types.is_floating(values.type):  # what pandas makes of whole numbers as soon as one is missing
        whole = pc.if_else(pc.equal(values, pc.round(values)), values, pa.scalar(None, values.type))
        return pc.coalesce(whole.cast(pa.int64(), safe=False).cast(pa.string()), values.cast(pa.string()))
    return values if pa.types.is_boolean(values.type) else values.cast(pa.string())


def times(batch: pa.RecordBatch, name: str, plan: Plan) -> tuple[pa.TimestampArray, np.ndarray]:
    """A label's times (null where none or unreadable) and bool[n]: given but unreadable."""
    if name not in plan.columns:
        return pa.nulls(batch.num_rows, _US), np.zeros(batch.num_rows, dtype=bool)
    given = _with_zone(_trimmed(batch[plan.columns[name]]), plan)
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


def check_types(schema: pa.Schema, plan: Plan) -> None:
    """Raises BadConfiguration where a column that is read holds no single values."""
    for name, column in plan.columns.items():
        if pa.types.is_nested(schema.field(column).type):
            raise BadConfiguration(
                f"column {column} for {name} is of type {schema.field(column).type}: no single value"
            )


def _plain(values: pa.Array) -> pa.Array:
    """Decoded; bytes are text, as some writers do not say so. Raises ArrowInvalid where they are not."""
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    return values.cast(pa.string()) if _is_text(values.type) else values


def _trimmed(values: pa.Array) -> pa.Array:
    values = _plain(values)
    return pc.utf8_trim_whitespace(values) if pa.types.is_string(values.type) else values


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    ) or str(kind) in ("string_view", "binary_view")


def _flags(values: pa.BooleanArray) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, np.int8))


def _with_zone(values: pa.Array, plan: Plan) -> pa.Array:
    """Times as UTC timestamps, or as RFC 3339 text where they came as text; other types as they are."""
    if plan.time_format in _EPOCH and not pa.types.is_temporal(values.type):
        return _since_1970(values, _EPOCH[plan.time_format])
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us", tz=values.type.tz), safe=False)
        return values if values.type.tz else pc.assume_timezone(values, plan.timezone, nonexistent="latest").cast(_US)
    if not pa.types.is_string(values.type):
        return values
    if plan.time_format and plan.time_format not in _EPOCH:
        return _formatted(values, plan.time_format, plan.timezone)
    text = pc.replace_substring_regex(values, r"^([0-9-]{10}) ", r"\1T", max_replacements=1)
    text = pc.replace_substring_regex(text, r"^([0-9]{4}-[0-9]{2}-[0-9]{2})$", r"\1T00:00:00")  # a day alone
    zoneless = pc.invert(pc.match_substring_regex(text, _ZONE))
    if plan.timezone == "UTC":
        return pc.if_else(zoneless, pc.binary_join_element_wise(text, "Z", ""), text)
    return pc.if_else(zoneless, _localised(text, plan.timezone), text)


def _since_1970(values: pa.Array, microseconds: int) -> pa.Array:
    """Numbers as RFC 3339 text; what is no number stays as it is, for the parser to name."""
    import pandas as pd

    text = values.cast(pa.string())
    numbers = pd.to_numeric(text.to_pandas(), errors="coerce") * microseconds
    times = pd.to_datetime(numbers.where(numbers.abs() < 2.5e17).round(), unit="us", errors="coerce")
    return _coalesced(times, text)


def _formatted(text: pa.StringArray, time_format: str, timezone: str) -> pa.StringArray:
    import pandas as pd

    times = pd.to_datetime(text.to_pandas(), format=time_format, errors="coerce", utc="%z" in time_format)
    if times.dt.tz is None:
        times = times.dt.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    return _coalesced(times.dt.tz_convert("UTC"), text)


def _localised(text: pa.StringArray, timezone: str) -> pa.StringArray:
    """Text of local times as UTC; what cannot be read or does not exist stays as it is, for the parser to name."""
    import pandas as pd

    zoneless = _flags(pc.invert(pc.match_substring_regex(text, _ZONE)).fill_null(False))
    naive = pd.to_datetime(text.to_pandas().where(zoneless), format="ISO8601", errors="coerce")
    return _coalesced(naive.dt.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC"), text)


def _coalesced(times: Any, text: pa.StringArray) -> pa.StringArray:
    """A pandas series of UTC times as RFC 3339, and the text where there is none."""
    return pc.coalesce(pa.array(times.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), pa.string(), from_pandas=True), text)
