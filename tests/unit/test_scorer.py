"""Reasons: at most four, ordered, none under 15 %, and no comparison with a past that is too short."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.features import MIN_HISTORY_FOR_REASONS, NAMES, REASONS, USER_RELATIVE, WIDTH, Reason
from serving import artifact, scorer
from serving.wire import MAX_REASONS, NO_REASON, SCORED
from tests.cases import tiny_model

MATRIX = scorer.reason_matrix(NAMES)


def contributions(**shares: float) -> np.ndarray:
    """One row of contributions, by feature name."""
    row = np.zeros((1, WIDTH), np.float32)
    for name, share in shares.items():
        row[0, NAMES.index(name)] = share
    return row


def known_user(payments: float = 100) -> np.ndarray:
    """One row of features of a user with that many payments."""
    row = np.zeros((1, WIDTH), np.float32)
    row[0, NAMES.index("history")] = np.log1p(payments)
    return row


def reasons(shares: np.ndarray, features: np.ndarray) -> list[str]:
    scored = scorer.with_reasons(np.array([0.9], np.float32), shares, features, NAMES)
    return [REASONS[code] for code in scored["reasons"][0] if code != NO_REASON]


def test_every_feature_speaks_for_one_reason() -> None:
    assert (MATRIX.sum(axis=1) == 1).all()


def test_features_of_one_reason_add_up_and_the_largest_comes_first() -> None:
    shares = contributions(amount_log=0.2, amount_z=0.2, travel_speed=0.3, count_1h=0.3)
    assert reasons(shares, known_user()) == [Reason.UNUSUAL_AMOUNT, Reason.BURST, Reason.IMPOSSIBLE_TRAVEL]


def test_a_share_under_fifteen_percent_is_no_reason() -> None:
    shares = contributions(amount_z=0.7, travel_speed=0.16, new_merchant=0.14)
    assert reasons(shares, known_user()) == [Reason.UNUSUAL_AMOUNT, Reason.IMPOSSIBLE_TRAVEL]


def test_shares_stand_beside_their_reasons_and_zeros_behind_them() -> None:
    shares = contributions(amount_z=0.6, travel_speed=0.3, new_merchant=0.1)
    scored = scorer.with_reasons(np.array([0.9], np.float32), shares, known_user(), NAMES)
    np.testing.assert_allclose(scored["shares"][0], [0.6, 0.3, 0, 0], atol=1e-6)
    assert scored["reasons"][0, 2:].tolist() == [NO_REASON, NO_REASON]


def test_a_new_user_is_not_compared_with_himself() -> None:
    shares = contributions(amount_z=0.5, hour_distance=0.2, travel_speed=0.3)
    new = known_user(MIN_HISTORY_FOR_REASONS - 1)
    assert reasons(shares, new) == [Reason.SPARSE_USER, Reason.IMPOSSIBLE_TRAVEL]
    enough = known_user(MIN_HISTORY_FOR_REASONS)
    assert reasons(shares, enough) == [Reason.UNUSUAL_AMOUNT, Reason.IMPOSSIBLE_TRAVEL, Reason.UNUSUAL_HOUR]


def test_a_model_without_history_compares_as_it_was_taught() -> None:
    columns = ("amount_z", "travel_speed")
    scored = scorer.with_reasons(
        np.array([0.9], np.float32), np.array([[0.6, 0.4]], np.float32), np.zeros((1, 2), np.float32), columns
    )
    assert REASONS[scored["reasons"][0, 0]] is Reason.UNUSUAL_AMOUNT


@given(
    st.lists(st.floats(0, 1), min_size=WIDTH, max_size=WIDTH).filter(lambda row: sum(row) > 0.01), st.integers(0, 40)
)
def test_reasons_are_few_ordered_and_weighty(row: list[float], payments: int) -> None:
    shares = np.asarray([row], np.float32)
    shares /= shares.sum()
    scored = scorer.with_reasons(np.array([0.5], np.float32), shares, known_user(payments), NAMES)[0]
    given_codes = scored["reasons"][scored["reasons"] != NO_REASON]
    given_shares = scored["shares"][: len(given_codes)]
    assert len(given_codes) <= MAX_REASONS
    assert len(set(given_codes.tolist())) == len(given_codes)
    assert (np.diff(given_shares) <= 0).all()
    assert (given_shares >= np.float32(0.15)).all()
    if payments < MIN_HISTORY_FOR_REASONS:
        assert not {REASONS[code] for code in given_codes} & USER_RELATIVE


def test_a_scored_row_is_24_bytes_on_the_wire() -> None:
    assert SCORED.itemsize == 24


def test_rows_scored_together_and_alone_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tiny_model.write(path)
    model = artifact.load(path)
    rows = np.random.default_rng(1).standard_normal((2_500, 4)).astype(np.float32)
    together = scorer.score(model, rows)
    alone = np.concatenate([scorer.score(model, rows[row : row + 1]) for row in (0, 1_023, 1_024, 2_499)])
    np.testing.assert_array_equal(together[[0, 1_023, 1_024, 2_499]]["reasons"], alone["reasons"])
    assert alone["score"] == pytest.approx(together[[0, 1_023, 1_024, 2_499]]["score"], abs=1e-6)
