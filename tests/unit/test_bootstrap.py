"""Intervals over users: the same numbers as scikit-learn's on each draw, and as wide as the truth moves."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from training import bootstrap
from training.bootstrap import Users


def table(rows: int, users: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, frauds and users of a table in which fraud scores higher, by one deviation."""
    generator = np.random.default_rng(seed)
    fraud = generator.random(rows) < 0.05
    score = (generator.standard_normal(rows) + fraud).astype(np.float32)
    return np.round(score, 1) if ties else score, fraud, generator.integers(0, users, rows)


@pytest.mark.parametrize("ties", [False, True])
def test_each_draw_has_the_average_precision_of_its_weighted_rows(ties: bool) -> None:
    score, fraud, user = table(2_000, 100, 1, ties)
    users = Users.drawn(user, replicates=20)
    found = bootstrap.average_precisions(score, fraud, users)
    for draw in range(20):
        weight = users.counts[draw][users.codes]
        assert found[draw] == pytest.approx(average_precision_score(fraud, score, sample_weight=weight), abs=1e-9)


def test_every_user_is_drawn_as_often_as_there_are_users_on_the_whole() -> None:
    users = Users.drawn(np.array(["a", "b", "b", "c", "d"]), replicates=50)
    assert users.counts.shape == (50, 4)
    assert (users.counts.sum(axis=1) == 4).all()
    assert users.codes.tolist() == [0, 1, 1, 2, 3]


def test_a_ratio_of_a_draw_is_of_its_weighted_rows() -> None:
    score, fraud, user = table(500, 40, 3, ties=False)
    users = Users.drawn(user, replicates=10)
    alert = score > 1
    found = bootstrap.ratios(alert & fraud, fraud, users)
    weight = users.counts[4][users.codes]
    assert found[4] == pytest.approx((weight * (alert & fraud)).sum() / (weight * fraud).sum())


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 60 tables of the same kind, the interval misses the mean average precision in a few only."""
    truth = np.mean([average_precision_score(table(4_000, 400, s, False)[1], table(4_000, 400, s, False)[0])
                     for s in range(100, 160)])  # fmt: skip
    missed = 0
    for seed in range(60):
        score, fraud, user = table(4_000, 400, seed, ties=False)
        draws = bootstrap.average_precisions(score, fraud, Users.drawn(user, replicates=200, seed=seed))
        interval = bootstrap.interval(0.0, draws)
        missed += not interval.low <= truth <= interval.high
    assert missed <= 9


def test_frauds_of_one_user_widen_the_interval() -> None:
    score, fraud, user = table(4_000, 2_000, 5, ties=False)
    one = user.copy()
    one[fraud] = np.arange(fraud.sum()) % 5 + 10_000  # the frauds of five people
    alone = bootstrap.interval(0, bootstrap.average_precisions(score, fraud, Users.drawn(user)))
    together = bootstrap.interval(0, bootstrap.average_precisions(score, fraud, Users.drawn(one)))
    assert together.high - together.low > alone.high - alone.low


def test_without_a_fraud_nothing_is_known() -> None:
    score, _, user = table(100, 10, 6, ties=False)
    draws = bootstrap.average_precisions(score, np.zeros(100, bool), Users.drawn(user, replicates=5))
    assert np.isnan(draws).all()
    assert bootstrap.interval(0.0, draws).low == float("-inf")
