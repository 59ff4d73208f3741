"""The kernel against the oracle, and the promises of folding: any batches, twice is once, no look ahead."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from feature_repo import kernel, state
from feature_repo.errors import StateCorrupt
from feature_repo.features import NAMES, RING_SIZE
from feature_repo.hashing import events_of
from feature_repo.memory import CONFLICT, DUPLICATE, FOLDED, LATE
from feature_repo.snapshot import no_snapshot
from feature_repo.state import DAY, HOUR
from feature_repo.transaction import MAX_AMOUNT
from tests.unit.oracle import MINUTE, Meant, Payment, meanings
from tests.unit.streams import DEVICES, KNOWN, MERCHANTS, METHODS, PLACES, SNAPSHOT, Log, batch_of, long_stream, streams

SEEN = DUPLICATE | CONFLICT
TOLERANCE = 2e-5  # float32 results of float32 sums; logarithms make a relative error an absolute one


def assert_meant(features: npt.NDArray[np.float32], flags: npt.NDArray[np.uint8], meant: list[Meant]) -> None:
    for row, expected in enumerate(meant):
        assert flags[row] == expected.flags, f"payment {row}"
        if expected.features is None:
            assert np.isnan(features[row]).all()
            continue
        assert tuple(expected.features) == NAMES
        for name, got in zip(NAMES, features[row].tolist(), strict=True):
            if name not in expected.borderline:
                wanted = expected.features[name]
                assert math.isclose(got, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE), (
                    f"payment {row}, {name}: {got} is not {wanted}"
                )


# ---- what features mean -----------------------------------------------------------------------------------


def test_pools_have_no_false_positives_in_the_filters() -> None:
    """What lets the oracle ignore the Bloom filters: no name is taken for known when all others are."""
    for field, pool in (("merchants", MERCHANTS), ("places", PLACES), ("methods", METHODS), ("devices", DEVICES)):
        names = [name for name in pool if name is not None]
        for name in names:
            others = [
                payment("ada", t=i, id=f"t{i}", merchant=other, place=other, method=other, device=other)
                for i, other in enumerate(x for x in names if x != name)
            ]
            probe = payment("ada", t=99, id="probe", merchant=name, place=name, method=name, device=name)
            features, _ = Log([*others, probe]).fold()
            column = {"merchants": "new_merchant", "places": "new_location", "methods": "new_method"}.get(
                field, "new_device"
            )
            assert features[-1, NAMES.index(column)] > 0, f"{name} among {field}"


@settings(max_examples=150)
@given(streams())
def test_features_mean_what_the_oracle_says(payments: list[Payment]) -> None:
    features, flags = Log(payments).fold()
    assert_meant(features, flags, meanings(payments, KNOWN))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pace", [MINUTE, HOUR, 12 * HOUR])
def test_features_mean_what_the_oracle_says_in_long_streams(seed: int, pace: int) -> None:
    payments = long_stream(seed, pace=pace)
    features, flags = Log(payments).fold()
    assert_meant(features, flags, meanings(payments, KNOWN))


def test_long_streams_hold_every_oddity() -> None:
    """The comparison above is worth something only if what it should compare does occur."""
    logs = [Log(long_stream(seed, pace=pace)) for seed in range(4) for pace in (MINUTE, HOUR, 12 * HOUR)]
    folded = [log.fold() for log in logs]
    features = np.concatenate([f for f, _ in folded])
    flags = np.concatenate([f for _, f in folded])
    for flag in (LATE, DUPLICATE, CONFLICT):
        assert (flags & flag > 0).sum() >= 10
    vectors = features[flags & SEEN == 0]
    for position, name in enumerate(NAMES):
        assert (vectors[:, position] != 0).sum() >= 20, name
    assert (vectors[:, NAMES.index("count_24h")] > math.log(1 + 2 * RING_SIZE)).any()
    assert (vectors[:, NAMES.index("history")] == 0).sum() > 3 * len(logs)  # users reset by silence


def test_a_payment_with_one_coordinate_has_no_place() -> None:
    here = payment("ada", t=0, id="a", latitude=10.0, longitude=10.0)
    half = payment("ada", t=HOUR, id="b", latitude=50.0, longitude=None)
    there = payment("ada", t=2 * HOUR, id="c", latitude=10.0, longitude=11.0)
    features, _ = Log([here, half, there]).fold()
    speeds = features[:, NAMES.index("travel_speed")]
    assert speeds[1] == 0
    assert math.isclose(speeds[2], math.log(1 + 54.75 / 900), abs_tol=0.001)  # 109.5 km in two hours


accepted = st.builds(
    Payment,
    id=st.uuids().map(str),
    user=st.just("ada"),
    time=st.integers(0, 130 * 365 * DAY),
    amount=st.floats(0.0001, MAX_AMOUNT),
    merchant=st.text(min_size=1, max_size=8),
    place=st.text(min_size=1, max_size=8),
    method=st.text(min_size=1, max_size=8),
    device=st.none() | st.text(min_size=1, max_size=8),
    latitude=st.none() | st.floats(-90, 90),
    longitude=st.none() | st.floats(-180, 180),
)


@given(st.lists(accepted, min_size=1, max_size=40))
def test_features_of_any_accepted_payment_are_finite(payments: list[Payment]) -> None:
    features, flags = Log(payments).fold()
    assert np.isfinite(features[flags & SEEN == 0]).all()


# ---- the promises of folding ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 400), max_size=8))
def test_any_batches_give_the_same_bits(seed: int, cuts: list[int]) -> None:
    payments = long_stream(seed)
    whole, parts = Log(payments), Log(payments)
    features, flags = whole.fold()
    edges = [0, *sorted(cuts), len(payments)]
    pieces = [parts.fold(a, b) for a, b in pairwise(edges)]
    assert np.concatenate([f for f, _ in pieces]).tobytes() == features.tobytes()
    assert np.concatenate([f for _, f in pieces]).tobytes() == flags.tobytes()
    assert parts.states.tobytes() == whole.states.tobytes()


@settings(max_examples=40)
@given(streams(), st.integers(0, 25), st.integers(0, 25))
def test_folding_a_range_again_is_a_no_op(payments: list[Payment], first: int, length: int) -> None:
    log = Log(payments)
    log.fold()
    before = log.states.tobytes()
    features, flags = log.fold(first, first + length)
    assert (flags == FOLDED).all()
    assert np.isnan(features).all()
    assert log.states.tobytes() == before


@settings(max_examples=40)
@given(streams())
def test_repeats_change_nothing_but_the_offset(payments: list[Payment]) -> None:
    _, flags = Log(payments).fold()
    once = [p for p, flag in zip(payments, flags, strict=True) if not flag & SEEN]
    log, clean = Log(payments), Log(once)
    features, _ = log.fold()
    assert features[flags & SEEN == 0].tobytes() == clean.fold()[0].tobytes()
    clean.states["offset"] = log.states["offset"]
    assert log.states.tobytes() == clean.states.tobytes()


@settings(max_examples=40)
@given(streams())
def test_a_preview_of_the_next_payment_is_what_the_stream_then_says(payments: list[Payment]) -> None:
    log = Log(payments)
    for row in range(len(payments)):
        states = log.states[[log.slots[row]]]
        untouched = states.tobytes()
        features, flags = kernel.preview(states, log.events.take(np.array([row])))
        streamed, streamed_flags = log.fold(row, row + 1)
        assert states.tobytes() == untouched
        assert flags[0] & SEEN == streamed_flags[0] & SEEN
        if not flags[0] & SEEN:
            assert (flags[0], features.tobytes()) == (streamed_flags[0], streamed.tobytes())


@given(streams())
def test_a_preview_of_a_repeat_is_that_of_the_same_payment_under_a_new_id(payments: list[Payment]) -> None:
    log = Log(payments)
    log.fold()
    last = payments[-1]
    again = Payment(**{**vars(last), "id": "never used"})
    states = log.states[log.slots[-1:]]
    repeat, flags = kernel.preview(states, events_of(batch_of([last]), SNAPSHOT.look_up))
    fresh, _ = kernel.preview(states, events_of(batch_of([again]), SNAPSHOT.look_up))
    assert flags[0] & SEEN
    assert repeat.tobytes() == fresh.tobytes()


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 60 * DAY))
@example(seed=1, position=200, behind=40 * DAY)
def test_late_event_does_not_change_an_emitted_vector(seed: int, position: int, behind: int) -> None:
    payments = long_stream(seed)
    earlier = payments[position]
    late = payment(earlier.user, t=earlier.time - behind, id="late", merchant="elsewhere")
    assume(late.time > 0)
    emitted, _ = Log(payments).fold()
    features, flags = Log([*payments[:position], late, *payments[position:]]).fold()
    assert features[:position].tobytes() == emitted[:position].tobytes()
    newest = max((p.time for p in payments[:position] if p.user == late.user), default=late.time)
    assert bool(flags[position] & LATE) == (late.time < newest)


def test_silence_of_thirty_days_starts_a_user_afresh() -> None:
    first = [payment("ada", t=i * HOUR, id=f"t{i}") for i in range(40)]
    end = first[-1].time
    just = Log([*first, payment("ada", t=end + 30 * DAY, id="next")]).fold()[0]
    over = Log([*first, payment("ada", t=end + 30 * DAY + 1, id="next")]).fold()[0]
    stranger = Log([payment("ada", t=end + 30 * DAY + 1, id="next")]).fold()[0]
    assert just[-1, NAMES.index("history")] == np.float32(math.log(41))
    assert over[-1].tobytes() == stranger[-1].tobytes()


def test_a_record_that_began_afresh_is_to_the_byte_a_new_users() -> None:
    """So that nothing tells whether the record of a silent user was swept meanwhile."""
    seen = long_stream(5, size=200)
    last = max(p.time for p in seen)
    back = [replace(p, time=last + 31 * DAY + n, id=f"back {n}") for n, p in enumerate(long_stream(6, size=60))]
    whole, fresh = Log([*seen, *back]), Log(back)
    whole.fold()
    kernel.fold(fresh.states, fresh.slots, fresh.events, 2, whole.offsets[len(seen) :])
    assert whole.states.tobytes() == fresh.states.tobytes()


# ---- records ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed() -> state.States:
    """Records of three users as they are stored; tests change copies."""
    log = Log(long_stream(7, size=150))
    log.fold()
    state.seal(log.states)
    return log.states


@pytest.mark.parametrize(
    ("field", "value"),
    [("magic", 1), ("layout", 99), ("user", 5), ("checksum", 5), ("ring_head", 32), ("ring_head", -1)],
)
def test_a_record_with_a_wrong_header_is_refused(sealed: state.States, field: str, value: int) -> None:
    """Also when its checksum is right: a record of another user, an older layout, a kernel gone wrong."""
    states, owners = sealed.copy(), sealed["user"].copy()
    states[field][1] = value
    if field != "checksum":
        state.seal(states)
    with pytest.raises(StateCorrupt, match="record 1 of 3"):
        state.check(states, owners)


@settings(max_examples=300)
@given(st.integers(0, state.STATE_BYTES - 1), st.integers(1, 255), st.integers(0, 2))
def test_a_record_with_any_flipped_byte_is_refused(sealed: state.States, byte: int, mask: int, row: int) -> None:
    states, owners = sealed.copy(), sealed["user"].copy()
    state.check(states, owners)
    states.view(np.uint8).reshape(len(states), state.STATE_BYTES)[row, byte] ^= mask
    with pytest.raises(StateCorrupt):
        state.check(states, owners)


def test_filters_are_as_good_as_they_say() -> None:
    """At 100 merchants about 1 % of new ones are taken for known (state.MERCHANT_BITS says so)."""
    known = [payment("ada", t=i, id=f"t{i}", merchant=f"shop {i}") for i in range(100)]
    log = Log(known)
    log.fold()
    probes = [payment("ada", t=200, id=f"p{i}", merchant=f"new shop {i}") for i in range(4_000)]
    features, _ = kernel.preview(np.repeat(log.states, len(probes)), events_of(batch_of(probes), no_snapshot))
    mistaken = (features[:, NAMES.index("new_merchant")] == 0).mean()
    assert 0.002 < mistaken < 0.025


def payment(
    user: str,
    *,
    t: int,
    id: str,
    merchant: str = "m",
    place: str = "p",
    method: str = "card",
    device: str | None = None,
    latitude: float | None = None,
    longitude: float | None = None,
) -> Payment:
    return Payment(id, user, t, 10.0, merchant, place, method, device, latitude, longitude)
