"""Payments, their users' records and their merchants' rows in, vectors out: what Feast's on-demand view calls.

Here the request's plain lists become the kernel's columns; the arithmetic is the kernel's alone.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import kernel, layouts
from feature_repo.features import NAMES
from feature_repo.hashing import events_of
from feature_repo.snapshot import COLUMNS, NEUTRAL, Stats
from feature_repo.state import empty
from feature_repo.transaction import SCHEMA

ENTITIES = ("user_id", "merchant")  # what states and merchants' rows are looked up by
# What a caller sends beside the entities; `event_time` in microseconds since 1970, UTC.
REQUEST: tuple[pa.Field, ...] = tuple(field for field in SCHEMA if field.name not in ENTITIES)


def vectors(inputs: dict[str, list[Any]]) -> dict[str, list[float]]:
    """Feature columns of a list of payments, each as if it came next for its user.

    `inputs` holds the columns of transaction.SCHEMA, `state`: a record's bytes, or None for a user without
    history, and snapshot.COLUMNS: None for a merchant without a row. Raises
    StateCorrupt for bytes that are not the user's own sealed record.
    """
    payments = pa.RecordBatch.from_arrays([_column(inputs[field.name], field) for field in SCHEMA], schema=SCHEMA)
    events = events_of(payments, lambda _: _merchants(inputs))
    states = empty(events.user)
    known = [row for row, state in enumerate(inputs["state"]) if state is not None]
    if known:
        states[known] = layouts.read([inputs["state"][row] for row in known], events.user[known])
    features, _ = kernel.preview(states, events)
    return {name: list(features[:, position]) for position, name in enumerate(NAMES)}


def _merchants(inputs: dict[str, list[Any]]) -> Stats:
    """Rows as Feast found them; what no snapshot holds is neutral, as in Snapshot.look_up."""
    columns = [
        [neutral if value is None else value for value in inputs[name]]
        for name, neutral in zip(COLUMNS, NEUTRAL, strict=True)
    ]
    return np.ascontiguousarray(np.array(columns, np.float32).T)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    """One request column in the contract's type."""
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).cast(field.type)
    return pa.array(values, field.type)
