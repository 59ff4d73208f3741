"""Frauds that nobody has reported yet are counted and kept out of calibration."""

import numpy as np
import pytest

from training.calibration import fit_calibration
from training.maturity import reported_share, without_unreported


def reports(frauds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Delays and ages of the frauds reported so far, of 60 days' frauds with log-normal delays of median 7."""
    generator = np.random.default_rng(seed)
    age = generator.uniform(0, 60, frauds)
    delay = generator.lognormal(np.log(7), 0.75, frauds)
    seen = delay <= age
    return delay[seen], age[seen]


def test_the_share_reported_by_an_age_is_found_although_late_reports_are_missing() -> None:
    shares = reported_share(*reports(20_000, seed=1), np.array([3.5, 7, 14, 28]))
    assert shares == pytest.approx([0.178, 0.5, 0.822, 0.968], abs=0.03)


def test_plain_shares_would_flatter_young_events() -> None:
    delay, age = reports(20_000, seed=1)
    assert (delay <= 7).mean() > reported_share(delay, age, np.array([7.0]))[0] + 0.03


def test_with_one_fixed_delay_everything_older_is_reported() -> None:
    ages = np.array([6.9, 7.0, 8.0, 30.0])
    assert reported_share(np.full(500, 7.0), np.linspace(7, 40, 500), ages).tolist() == [0, 1, 1, 1]


def test_without_reports_nothing_is_missing() -> None:
    assert reported_share(np.empty(0), np.empty(0), np.array([1.0, 2.0])).tolist() == [1, 1]


def test_one_row_is_taken_out_for_every_fraud_that_half_its_kind_has_reported() -> None:
    unlabelled = np.array([1, 2, 3, 10, 11], np.float32)
    keep = without_unreported(unlabelled, np.array([10.4, 2.1], np.float32), np.array([0.5, 0.5]))
    assert keep.tolist() == [True, False, True, False, True]


def test_nothing_is_taken_out_where_everything_is_reported() -> None:
    assert without_unreported(np.arange(5, dtype=np.float32), np.array([3.0], np.float32), np.ones(1)).all()


def test_more_missing_than_there_are_rows_takes_all_and_stops() -> None:
    assert not without_unreported(np.ones(2, np.float32), np.full(9, 1.0, np.float32), np.full(9, 0.5)).any()


def test_calibration_is_right_although_half_the_frauds_are_unreported() -> None:
    generator = np.random.default_rng(3)
    ordinary = generator.lognormal(0, 0.5, 60_000).astype(np.float32)
    frauds = generator.lognormal(1.5, 0.7, 400).astype(np.float32)
    reported = generator.random(400) < 0.5
    unlabelled = np.concatenate([ordinary, frauds[~reported]])
    keep = without_unreported(unlabelled, frauds[reported], np.full(reported.sum(), 0.5))
    fresh = generator.lognormal(0, 0.5, 400_000).astype(np.float32)

    def rare(calibrated_on: np.ndarray) -> float:
        return float((fit_calibration(calibrated_on).apply(fresh) >= 0.75).mean())

    assert rare(unlabelled) < 0.0005
    assert rare(unlabelled[keep]) == pytest.approx(0.001, rel=0.35)
