"""Stored records of several layouts: read together, carried over exactly, or refused by name."""

import numpy as np
import pytest

from feature_repo import kernel, layouts, state
from feature_repo.errors import StateCorrupt, StateLayoutUnknown
from feature_repo.layouts import Former
from feature_repo.state import LAYOUT, STATE_BYTES, STATE_DTYPE
from tests.unit.streams import Log, long_stream

FORMER = LAYOUT - 1
HEADER_FIELDS = ("magic", "layout", "has_geo", "checksum", "user")
# Today's fields in another order behind the header, and one that went: a record of another size.
REORDERED = np.dtype(
    [(name, STATE_DTYPE[name]) for name in HEADER_FIELDS]
    + [(name, STATE_DTYPE[name]) for name in sorted(STATE_DTYPE.names or ()) if name not in HEADER_FIELDS]
    + [("forgotten", "<u8")]
)
PAYMENTS = long_stream(7, size=240)


@pytest.fixture
def former(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layouts.FORMER, FORMER, Former(REORDERED, layouts.moved))


def folded(count: int) -> Log:
    """Three users after the first `count` payments, their records sealed."""
    log = Log(PAYMENTS)
    kernel.fold(log.states, log.slots[:count], log.events.take(np.arange(count)), 0, np.arange(count))
    state.seal(log.states)
    return log


def stored(states: state.States) -> list[bytes]:
    """As Redis holds them."""
    return [record.tobytes() for record in states]


def as_former(states: state.States) -> list[bytes]:
    """The same records as the former build wrote them."""
    old = np.zeros(len(states), REORDERED)
    for name in STATE_DTYPE.names or ():
        old[name] = states[name]
    old["layout"], old["forgotten"] = FORMER, 7
    state.seal(old)
    return stored(old)


def test_records_of_a_former_layout_become_what_this_build_would_have_made(former: None) -> None:
    log = folded(120)
    assert stored(layouts.read(as_former(log.states), log.states["user"])) == stored(log.states)


def test_old_and_new_records_are_read_together_and_folded_on_as_if_nothing_had_changed(former: None) -> None:
    log, whole = folded(120), folded(240)
    old, new = as_former(log.states), stored(log.states)
    states = layouts.read([old[0], new[1], old[2]], log.states["user"])
    rest = np.arange(120, 240)
    kernel.fold(states, log.slots[rest], log.events.take(rest), 0, rest)
    state.seal(states)
    assert stored(states) == stored(whole.states)


@pytest.mark.parametrize("byte", [0, 9, 17, 24, 1_000, REORDERED.itemsize - 1])
def test_a_former_record_with_a_flipped_byte_is_refused(former: None, byte: int) -> None:
    log = folded(120)
    old = [bytearray(record) for record in as_former(log.states)]
    old[1][byte] ^= 1
    with pytest.raises(StateCorrupt):
        layouts.read([bytes(record) for record in old], log.states["user"])


def test_another_users_record_is_refused_in_any_layout(former: None) -> None:
    log = folded(120)
    for records in (stored(log.states), as_former(log.states)):
        with pytest.raises(StateCorrupt, match="wrong owner"):
            layouts.read(records[::-1], log.states["user"])


@pytest.mark.parametrize(("layout", "says"), [(LAYOUT + 1, "a newer build wrote it"), (1, "it lacks")])
def test_a_layout_that_cannot_be_read_is_refused_by_name(layout: int, says: str) -> None:
    """A newer build's, or one such as layout 1, which kept no recent sums: no number is made up for them."""
    log = folded(120)
    log.states["layout"][1] = layout
    state.seal(log.states)
    with pytest.raises(StateLayoutUnknown, match=says) as refused:
        layouts.read(stored(log.states), log.states["user"])
    assert refused.value.layout == layout and "vigil state rebuild" in refused.value.remedy


@pytest.mark.parametrize("cut", [STATE_BYTES - 1, 23, 0])
def test_a_record_of_another_length_is_refused(cut: int) -> None:
    log = folded(120)
    first, second, third = stored(log.states)
    with pytest.raises(StateCorrupt, match=f"record 1 of 3 has {cut} bytes"):
        layouts.read([first, second[:cut], third], log.states["user"])


def test_nothing_stored_is_nothing_read() -> None:
    assert len(layouts.read([], np.empty(0, np.uint64))) == 0


def test_every_layout_begins_with_the_same_header() -> None:
    for dtype in (STATE_DTYPE, *(one.dtype for one in layouts.FORMER.values())):
        assert dtype.itemsize % 8 == 0
        for name in ("magic", "layout", "checksum", "user"):
            assert (dtype[name], dtype.fields[name][1]) == (layouts.HEADER[name], layouts.HEADER.fields[name][1])
