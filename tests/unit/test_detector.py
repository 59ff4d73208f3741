"""The detector finds planted anomalies, names their column, and repeats itself exactly."""

import numpy as np
import pytest

from feature_repo.errors import BadConfiguration
from tests.cases.tables import PLANTED, correlated, with_planted
from training import recipes
from training.calibration import fit_calibration
from training.detector import Detector, Normalisation, fit_autoencoder
from training.evaluation import average_precision
from training.export import to_onnx, verify
from training.tails import fit_tail
from training.weights import LEAST, MIN_KNOWN

WIDTH = 12
RECIPE = recipes.named("fast", ["updates=80", "batch_rows=512"])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fit_autoencoder(correlated(6_000, WIDTH, seed=1), RECIPE)


def test_planted_anomalies_rank_first(detector: Detector) -> None:
    table = correlated(6_000, WIDTH, seed=2)
    planted = with_planted(table, 0.01, seed=3)
    assert average_precision(detector.score(table), planted) > 0.9


def test_the_planted_column_is_named(detector: Detector) -> None:
    table = correlated(6_000, WIDTH, seed=4)
    planted = with_planted(table, 0.01, seed=5)
    blamed = detector.contributions(table)[planted].argmax(axis=1)
    assert (blamed == PLANTED).mean() > 0.9


def test_contributions_sum_to_one_and_dropped_columns_have_none(detector: Detector) -> None:
    shares = detector.contributions(correlated(2_000, WIDTH, seed=6))
    assert shares.shape == (2_000, WIDTH)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares >= 0).all()
    assert detector.dropped == (WIDTH - 1,)
    assert (shares[:, WIDTH - 1] == 0).all()


def test_putting_the_blamed_columns_right_takes_the_alarm_away(detector: Detector) -> None:
    table = correlated(20_000, WIDTH, seed=7)
    calibration = fit_calibration(detector.score(table))
    planted = with_planted(table, 0.005, seed=8)
    odd = table[planted]
    before = calibration.apply(detector.score(odd))
    blamed = detector.contributions(odd) >= 0.15
    mended = np.where(blamed, detector.expected(odd), odd)
    after = calibration.apply(detector.score(mended))
    threshold = np.quantile(calibration.apply(detector.score(table)), 0.995)
    assert ((after < threshold) | (after <= before / 2)).mean() >= 0.9


def test_the_same_seed_gives_the_same_detector(detector: Detector) -> None:
    table = correlated(6_000, WIDTH, seed=1)
    again = fit_autoencoder(table, RECIPE)
    np.testing.assert_array_equal(again.score(table), detector.score(table))


def test_another_seed_gives_another_detector(detector: Detector) -> None:
    table = correlated(6_000, WIDTH, seed=1)
    other = fit_autoencoder(table, recipes.named("fast", ["updates=80", "batch_rows=512", "seed=8"]))
    assert not np.array_equal(other.score(table), detector.score(table))


def test_both_directions_of_a_column_are_odd(detector: Detector) -> None:
    table = correlated(2, WIDTH, seed=9)
    table[:] = np.median(correlated(6_000, WIDTH, seed=1), axis=0)
    table[0, PLANTED] += 10
    table[1, PLANTED] -= 10
    ordinary = np.quantile(detector.score(correlated(6_000, WIDTH, seed=10)), 0.99)
    assert (detector.score(table) > ordinary).all()


def test_the_column_in_which_known_anomalies_are_odd_counts_more() -> None:
    known = correlated(400, WIDTH, seed=20)
    known = known[with_planted(known, 0.5, seed=21)]
    taught = fit_autoencoder(correlated(6_000, WIDTH, seed=1), RECIPE, known)
    assert int(taught.weights.argmax()) == PLANTED  # column 11 alone is dropped, behind it
    assert float(taught.weights.min()) >= LEAST


def test_few_known_anomalies_teach_nothing() -> None:
    known = correlated(MIN_KNOWN - 1, WIDTH, seed=20)
    assert (fit_autoencoder(correlated(6_000, WIDTH, seed=1), RECIPE, known).weights == 1).all()


def test_known_anomalies_of_another_width_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="known anomalies of shape"):
        fit_autoencoder(correlated(1_000, WIDTH, seed=1), RECIPE, correlated(30, WIDTH + 1, seed=1))


def test_a_wild_value_is_blamed_on_its_own_column(detector: Detector) -> None:
    """Whatever its size: the networks read it only as far as their reach."""
    table = correlated(2_000, WIDTH, seed=22)
    table[:, PLANTED] += 1e6
    assert (detector.contributions(table).argmax(axis=1) == PLANTED).mean() > 0.99


def test_the_exported_graph_agrees_with_torch(detector: Detector) -> None:
    table = correlated(20_000, WIDTH, seed=11)
    table[:5] *= 1_000
    table[5, 1], table[6, 1] = 3e38, -3e38
    calibration = fit_calibration(detector.score(table))
    assert verify(to_onnx(detector, calibration), detector, calibration, table) <= 1e-5


def test_enormous_values_give_finite_scores(detector: Detector) -> None:
    table = np.full((2, WIDTH), 3.4e38, np.float32)
    table[1] *= -1
    assert np.isfinite(detector.score(table)).all()
    np.testing.assert_allclose(detector.contributions(table).sum(axis=1), 1, atol=1e-5)


def test_normalisation_can_be_undone() -> None:
    rows = correlated(1_000, WIDTH - 1, seed=12)[:, 1:]
    rows[0] *= 50
    fitted = Normalisation.fit(rows, tuple(range(rows.shape[1])), soft_clip=5.0)
    import torch

    back = fitted.undone(fitted(torch.from_numpy(rows))).numpy()
    np.testing.assert_allclose(back, rows, rtol=1e-3, atol=1e-3)


def test_evidence_is_minus_the_logarithm_of_rarity() -> None:
    """For residuals that follow a Lomax law the fit finds it again."""
    shares = np.random.default_rng(13).random((200_000, 2))
    residuals = np.column_stack([(shares[:, 0] ** (-1 / 3) - 1) * 2, -np.log(shares[:, 1])]).astype(np.float32)
    tail = fit_tail(residuals, np.full(2, 1e-6, np.float32))
    import torch

    for rarity in (0.1, 0.01, 0.001):
        at = torch.tensor([[(rarity ** (-1 / 3) - 1) * 2, -np.log(rarity)]], dtype=torch.float32)
        np.testing.assert_allclose(tail(at).numpy()[0], -np.log(rarity), rtol=0.12)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:100], "at least 256"),
        (lambda x: np.ones_like(x), "every column is constant"),
        (lambda x: np.where(x == x.max(), np.nan, x), "holds 1 values that are missing, infinite"),
        (lambda x: x[:, 0], r"has shape \(1000,\)"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(spoil: object, said: str) -> None:
    assert callable(spoil)
    with pytest.raises(BadConfiguration, match=said):
        fit_autoencoder(spoil(correlated(1_000, WIDTH, seed=14)), RECIPE)


def test_a_data_frame_is_a_table_and_errors_call_its_columns_by_name() -> None:
    import pandas as pd

    frame = pd.DataFrame(correlated(1_000, 3, seed=14), columns=["amount", "age", "visits"])
    detector = fit_autoencoder(frame, RECIPE)
    np.testing.assert_array_equal(detector.score(frame[:50]), detector.score(frame[:50].to_numpy()))
    frame.loc[[3, 5], "age"] = np.nan
    for wrong in (lambda: fit_autoencoder(frame, RECIPE), lambda: detector.score(frame)):
        with pytest.raises(BadConfiguration, match="column 'age' holds 2 values that are missing"):
            wrong()
    with pytest.raises(BadConfiguration, match="no number"):
        fit_autoencoder(frame.assign(visits="often"), RECIPE)
    with pytest.raises(BadConfiguration, match="2 columns to score, the detector was fitted to 3"):
        detector.score(frame[["amount", "visits"]])


def test_the_documented_example_holds() -> None:
    """`training` alone, on any numeric table."""
    import doctest

    import training

    done = doctest.testmod(training)
    assert done.attempted >= 6 and done.failed == 0
