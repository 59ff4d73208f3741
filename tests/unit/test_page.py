"""The page of a run stands alone and says what its JSON says."""

from datetime import timedelta

import pytest

from tests.cases.tables import CONSTANT, FIRST_DAY, training_set
from training import recipes
from training.page import html
from training.registration import Fitted
from training.train import fit_model


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    recipe = recipes.named("mahalanobis", ["alert_budget=0.02"])
    return fit_model(training_set(), recipe, "vigil-<autoencoder>", (FIRST_DAY, FIRST_DAY + timedelta(days=5)))


def test_the_page_holds_numbers_slices_columns_and_curves_and_loads_nothing(fitted: Fitted) -> None:
    page = html(fitted.report, fitted.manifest, b"image")
    assert "data:image/png;base64,aW1hZ2U=" in page
    assert f"{fitted.report['held_out']['average_precision']:.4g}" in page
    assert "5: " in page and "By user age" in page and CONSTANT in page
    assert "http" not in page and "<script" not in page
    assert "vigil-&lt;autoencoder&gt;" in page


def test_slices_cover_every_held_out_payment_and_intervals_hold_their_metric(fitted: Fitted) -> None:
    report = fitted.report
    for groups in report["slices"].values():
        assert sum(group["rows"] for group in groups.values()) == report["rows"]["held_out"]
        assert sum(group["frauds"] for group in groups.values()) == report["held_out"]["frauds"]
    for name, (low, high) in report["intervals"].items():
        assert low <= report["held_out"][name] <= high
