"""Usual values are those of the user's own payments; a payment that is usual has them already."""

import math

import numpy as np
import pytest

from feature_repo.features import NAMES
from feature_repo.state import DAY
from feature_repo.usual import AGREES, usual
from tests.unit.oracle import Payment
from tests.unit.streams import Log

NOON = 1_700_049_600_000_000
MIDDLES = {"history": 4.0, "merchant_volume_30d": 7.0, "amount_log": 3.0}


def last(amounts: list[float], pause: int = DAY // 2) -> dict[str, float]:
    """Features of the last of payments of one user."""
    payments = [
        Payment(
            user="u",
            id=f"t{at}",
            time=NOON + at * pause,
            amount=amount,
            merchant="m",
            place="p",
            method="c",
            device=None,
        )
        for at, amount in enumerate(amounts)
    ]
    features, _ = Log(payments).fold()
    return dict(zip(NAMES, features[-1].tolist(), strict=True))


def test_the_usual_amount_is_the_mean_of_thirty_days() -> None:
    found = usual(last([20.0, 40.0] * 10 + [900.0]), MIDDLES)
    assert math.expm1(found["amount_log"]) == pytest.approx(30, rel=1e-3)
    assert math.exp(found["amount_to_max"]) * 2 - 1 == pytest.approx(30 / 40, rel=1e-3)
    assert math.expm1(found["count_24h"]) == pytest.approx(2, rel=0.1)
    assert math.expm1(found["since_last"]) == pytest.approx(DAY / 2e6, rel=0.1)


def test_what_agrees_with_the_user_is_nothing() -> None:
    found = usual(last([20.0] * 12), MIDDLES)
    assert {found[name] for name in AGREES} == {0.0}
    assert found["locations_24h"] <= math.log1p(1)


def test_a_new_user_has_the_middle_of_all_where_one_is_known() -> None:
    row = last([20.0])
    assert usual(row, MIDDLES)["amount_log"] == 3.0
    assert "amount_log" not in usual(row, {})
    assert usual(row, MIDDLES)["history"] == 4.0
    assert np.isfinite(list(usual(row, {}).values())).all()
