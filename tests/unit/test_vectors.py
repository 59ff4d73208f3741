"""The on-demand view's function: request columns and records in, the kernel's vectors out."""

from typing import Any

import numpy as np
import pytest

from feature_repo import kernel, state
from feature_repo.errors import StateCorrupt
from feature_repo.features import NAMES
from feature_repo.hashing import events_of
from feature_repo.snapshot import COLUMNS
from feature_repo.transaction import SCHEMA
from feature_repo.vectors import REQUEST, vectors
from tests.unit.streams import KNOWN, SNAPSHOT, Log, batch_of, long_stream


def request(log: Log, rows: list[int], states: list[bytes | None]) -> dict[str, list[Any]]:
    """What Feast hands over: one list per column, times as integers."""
    batch = batch_of([log.payments[row] for row in rows])
    columns = {name: batch.column(name).to_pylist() for name in SCHEMA.names}
    columns["event_time"] = [log.payments[row].time for row in rows]
    for position, name in enumerate(COLUMNS):
        columns[name] = [KNOWN[m][position] if m in KNOWN else None for m in columns["merchant"]]
    return columns | {"state": states}


def test_vectors_are_those_of_the_kernel() -> None:
    log = Log(long_stream(1, size=100))
    log.fold(0, 97)
    state.seal(log.states)
    records = [log.states[log.slots[row]].tobytes() for row in (97, 98, 99)]
    got = vectors(request(log, [97, 98, 99], list(records)))
    expected, _ = kernel.preview(log.states[log.slots[97:]], log.events.take(np.array([97, 98, 99])))
    assert tuple(got) == NAMES
    assert np.array(list(got.values()), np.float32).T.tobytes() == expected.tobytes()


def test_a_user_without_a_record_is_new() -> None:
    log = Log(long_stream(1, size=1))
    got = vectors(request(log, [0], [None]))
    expected, _ = kernel.preview(log.states, events_of(batch_of(log.payments), SNAPSHOT.look_up))
    assert [values[0] for values in got.values()] == expected[0].tolist()
    assert got["history"] == [0.0]


@pytest.mark.parametrize("spoil", [lambda r: r[:-1], lambda r: r[:500] + b"\xff" + r[501:], lambda _: b"hello world"])
def test_a_spoilt_record_is_refused(spoil: Any) -> None:
    log = Log(long_stream(1, size=50))
    log.fold()
    state.seal(log.states)
    with pytest.raises(StateCorrupt):
        vectors(request(log, [49], [spoil(log.states[log.slots[49]].tobytes())]))


def test_a_record_of_somebody_else_is_refused() -> None:
    log = Log(long_stream(1, size=50))
    log.fold()
    state.seal(log.states)
    stranger = log.states[(log.slots[49] + 1) % 3].tobytes()
    with pytest.raises(StateCorrupt, match="owner"):
        vectors(request(log, [49], [stranger]))


def test_the_request_is_the_contract_without_the_entities() -> None:
    assert {field.name for field in REQUEST} == set(SCHEMA.names) - {"user_id", "merchant"}
