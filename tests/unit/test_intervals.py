"""The bootstrap over users, against plain copies of the rows."""

import numpy as np
import pytest

from training import evaluation, intervals


def sample(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    fraud = g.random(rows) < 0.05
    score = np.round(g.normal(size=rows) + 1.5 * fraud, 1).astype(np.float32)  # with ties
    return score, fraud, g.integers(0, rows // 20, rows)


def test_a_weight_is_a_number_of_copies() -> None:
    score, fraud, _ = sample(2_000, 1)
    weights = np.random.default_rng(2).integers(0, 4, 2_000)
    copied = evaluation.average_precision(np.repeat(score, weights), np.repeat(fraud, weights))
    assert intervals.ranked(score, fraud)(weights.astype(float)) == pytest.approx(copied)


def test_a_share_of_money_is_weighted_as_well() -> None:
    part, whole = np.array([True, False, True]), np.array([True, True, False])
    share = intervals.share_of(part, whole, np.array([10.0, 30.0, 99.0]))
    assert share(np.array([3.0, 1.0, 1.0])) == pytest.approx(0.5)


def test_users_are_drawn_as_a_whole_and_the_same_ones_for_every_metric() -> None:
    _, _, user = sample(2_000, 1)
    user = np.unique(user, return_inverse=True)[1]
    seen: list[np.ndarray] = []

    def metric(weights: np.ndarray) -> float:
        seen.append(weights)
        return float(weights.sum())

    first = intervals.bootstrap(user, metric, 5, seed=3)
    np.testing.assert_array_equal(first, intervals.bootstrap(user, metric, 5, seed=3))
    for weights in seen:
        for one in range(5):
            assert len(set(weights[user == one].tolist())) == 1


def test_one_user_with_all_the_frauds_makes_a_wide_interval() -> None:
    score, fraud, user = sample(4_000, 4)
    user = np.unique(user, return_inverse=True)[1]
    clumped = np.where(fraud, user.max() + 1 + np.arange(4_000) % 3, user)
    clumped = np.unique(clumped, return_inverse=True)[1]
    metric = intervals.ranked(score, fraud)

    def width(codes: np.ndarray) -> float:
        low, high = intervals.interval(intervals.bootstrap(codes, metric, 100, seed=5))
        return high - low

    assert width(clumped) > 1.5 * width(user)


def test_the_interval_holds_the_whole_sample() -> None:
    score, fraud, user = sample(4_000, 6)
    user = np.unique(user, return_inverse=True)[1]
    low, high = intervals.interval(intervals.bootstrap(user, intervals.ranked(score, fraud), 100, seed=7))
    assert low < evaluation.average_precision(score, fraud) < high
