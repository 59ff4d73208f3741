"""The table of users behaves like a dictionary that numbers its keys."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.slots import Slots

hashes = st.integers(0, 2**64 - 1) | st.integers(0, 3).map(lambda low: low << 32)  # the latter share a place


@given(st.lists(st.lists(hashes, max_size=30), max_size=6))
def test_users_keep_the_slot_of_their_first_appearance(batches: list[list[int]]) -> None:
    slots, known = Slots(), dict[int, int]()
    for batch in batches:
        users = np.array(batch, np.uint64)
        new = [row for row, user in enumerate(batch) if user not in known and user not in batch[:row]]
        for row in new:
            known[batch[row]] = len(known)
        got, first = slots.place(users)
        assert got.tolist() == [known[user] for user in batch]
        assert first.tolist() == new
        assert len(slots) == len(known)


def test_growing_keeps_every_slot() -> None:
    users = np.random.default_rng(0).integers(0, 2**64, 300_000, dtype=np.uint64)
    slots = Slots()
    for start in range(0, len(users), 50_000):
        slots.place(users[start : start + 50_000])
    again, first = slots.place(users)
    assert len(first) == 0
    assert (again == np.arange(len(users))).all()
