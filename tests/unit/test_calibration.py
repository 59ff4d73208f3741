"""The anomaly score keeps its promises of rarity and never changes the order of raw scores."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.errors import BadConfiguration
from training.calibration import Calibration, fit_calibration, score_of_rarity
from training.evaluation import auc, average_precision

Raw = npt.NDArray[np.float32]


def raw_scores(rows: int, seed: int, freedom: float = 4.0) -> Raw:
    """Mean squares of heavy-tailed columns: the shape of a detector's raw scores."""
    return (np.random.default_rng(seed).standard_t(freedom, (rows, 20)) ** 2).mean(axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit_calibration(raw_scores(100_000, seed=1))


@pytest.mark.parametrize(("score", "share", "slack"), [(0.25, 0.1, 0.03), (0.5, 0.01, 0.06), (0.75, 0.001, 0.25)])
def test_a_score_says_how_rare_it_is_among_ordinary_payments(
    fitted: Calibration, score: float, share: float, slack: float
) -> None:
    scores = fitted.apply(raw_scores(200_000, seed=2))
    assert (scores >= score).mean() == pytest.approx(share, rel=slack)


def test_one_in_ten_thousand_is_at_least_the_right_order(fitted: Calibration) -> None:
    share = (fitted.apply(raw_scores(400_000, seed=3)) >= 0.9).mean()
    assert 0.4e-4 < share < 2.5e-4


def test_scores_are_in_the_unit_interval_for_any_raw_score(fitted: Calibration) -> None:
    raw = np.array([0, 1e-45, 1e-20, 1e-3, 1, 1e3, 1e20, 3e38], np.float32)
    scores = fitted.apply(raw)
    assert np.all((scores >= 0) & (scores < 1))
    assert np.all(np.diff(scores) >= 0)
    assert np.all(np.diff(scores[2:]) > 0)


@given(st.floats(1e-6, 1e5), st.floats(1.001, 1.5))
def test_a_larger_raw_score_gives_a_larger_float32_score(low: float, factor: float) -> None:
    raw = np.array([low, low * factor], np.float32)
    first, second = SHARED.apply(raw)
    assert first < second


SHARED = fit_calibration(raw_scores(20_000, seed=4))


def test_neighbouring_float32_raw_scores_never_change_places(fitted: Calibration) -> None:
    """No ties but among neighbours: float32 cannot tell apart what is closer than its own grain."""
    raw = np.unique(raw_scores(300_000, seed=5))
    scores = fitted.apply(raw)
    assert np.all(np.diff(scores) >= 0)
    tied = np.flatnonzero(np.diff(scores) == 0)
    assert np.all(raw[tied + 1] - raw[tied] <= 4 * np.spacing(raw[tied]))


def test_the_far_tail_does_not_tie(fitted: Calibration) -> None:
    """Frauds score beyond anything calibration saw; they still come in their order."""
    raw = np.geomspace(50, 1e5, 5_000).astype(np.float32)
    assert len(np.unique(fitted.apply(raw))) == len(raw)


def test_calibration_changes_neither_average_precision_nor_auc(fitted: Calibration) -> None:
    raw = raw_scores(50_000, seed=6)
    fraud = np.random.default_rng(7).random(len(raw)) < np.clip(raw / 100, 0, 1)
    scores = fitted.apply(raw)
    assert average_precision(scores, fraud) == pytest.approx(average_precision(raw, fraud), abs=1e-6)
    assert auc(scores, fraud) == pytest.approx(auc(raw, fraud), abs=1e-6)


def test_a_small_sample_takes_an_exponential_tail_and_says_how_small_it_was() -> None:
    fitted = fit_calibration(raw_scores(2_000, seed=8))
    assert fitted.tail.shape == 0
    assert fitted.tail.exceedances == 20
    assert fitted.tail.scale_interval[0] < fitted.tail.scale < fitted.tail.scale_interval[1]


def test_a_short_tail_does_not_squeeze_anomalies_together() -> None:
    bounded = np.random.default_rng(9).beta(2, 2, 50_000).astype(np.float32)
    fitted = fit_calibration(bounded)
    assert fitted.tail.shape < 0
    beyond = np.geomspace(1.01, 1e4, 2_000).astype(np.float32)
    assert len(np.unique(fitted.apply(beyond))) == len(beyond)


def test_too_few_payments_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="1000 are needed"):
        fit_calibration(raw_scores(999, seed=10))


def test_payments_that_all_score_the_same_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="nothing to calibrate"):
        fit_calibration(np.ones(5_000, np.float32))


def test_the_promised_scores_stand_at_their_rarities() -> None:
    assert score_of_rarity(np.array([0.0, 1, 2, 3, 4])).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 0.9])
