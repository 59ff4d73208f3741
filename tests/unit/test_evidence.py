"""Evidence read from features says what the user's payments themselves say, told by the naive oracle."""

from dataclasses import replace

import numpy as np
import pytest

from api.transactions.service import found
from feature_repo.evidence import Evidence, evidence
from feature_repo.features import NAMES, REASONS, RING_SIZE, Reason
from feature_repo.state import DAY, HOUR
from tests.unit.oracle import MINUTE, Payment, speed
from tests.unit.streams import Log, long_stream

ALL = [str(reason) for reason in REASONS]
NOON = 1_700_049_600_000_000
EXACT = 1e-3  # relative: features are in float32, ratios come through an exponential of them


def by_measure(found: list[Evidence]) -> dict[str, Evidence]:
    return {item.measure: item for item in found}


def rows(payments: list[Payment]) -> list[dict[str, float] | None]:
    """Features of the kernel by name; None where a payment was seen before."""
    features, _ = Log(payments).fold()
    return [dict(zip(NAMES, row, strict=True)) if np.isfinite(row).all() else None for row in features.tolist()]


@pytest.mark.parametrize("pace", [20 * MINUTE, DAY // 2, 4 * DAY])
def test_values_and_usual_values_are_those_of_the_payments(pace: int) -> None:
    payments = long_stream(seed=5, size=400, pace=pace)
    past: dict[str, list[Payment]] = {}
    compared = 0
    for payment, row in zip(payments, rows(payments), strict=True):
        if row is None:
            continue
        before = past.setdefault(payment.user, [])
        now = max([payment.time, *(other.time for other in before)])
        if before and payment.time - max(other.time for other in before) > 30 * DAY:
            before.clear()
        found = by_measure(evidence(ALL, row))
        count = [other for other in before if now // HOUR - other.time // HOUR < 24]
        day = found["payments in the 24 hours before"]
        assert day.value == len(count)
        assert found["earlier payments of the user"].value == len(before)
        month = [other.amount for other in before if now // DAY - other.time // DAY < 30]
        known_days = (now - min((other.time for other in before), default=now)) / DAY
        mean = found.get("amount against the mean of 30 days")
        if mean is not None and not 29 < known_days < 30:
            assert mean.value == pytest.approx(payment.amount, rel=EXACT, abs=1e-4)
            assert mean.usual == pytest.approx(sum(month) / len(month), rel=EXACT)
            assert mean.direction == ("above" if mean.value >= mean.usual else "below")
            spent = found["spent in the 24 hours before"]
            assert spent.value == pytest.approx(
                sum(other.amount for other in count), rel=EXACT, abs=EXACT * spent.usual
            )
            assert spent.usual == pytest.approx(sum(month) / max(1, min(30, known_days)), rel=EXACT)
            assert day.usual == pytest.approx(len(month) / max(1, min(30, known_days)), rel=EXACT)
            compared += 1
        largest = found.get(f"amount against the largest of the last {RING_SIZE}")
        if largest is not None:
            assert largest.usual == pytest.approx(max(p.amount for p in before[-RING_SIZE:]), rel=EXACT)
        travel = found.get("speed from the last place")
        if travel is not None:
            assert travel.value == pytest.approx(speed(payment, before), rel=EXACT, abs=1e-3)
        before.append(payment)
    assert compared > 100


def usual_life(payments: int = 12) -> list[Payment]:
    return [Payment(f"t{i}", "ada", NOON + i * DAY, 10.0, "shop", "home", "card", "phone") for i in range(payments)]


def strange(**changed: object) -> dict[str, Evidence]:
    """Evidence of one payment after a usual life; it is like the others but for what is `changed`."""
    payment = replace(usual_life(13)[-1], **changed)  # type: ignore[arg-type]  # the fields of Payment
    row = rows([*usual_life(), payment])[-1]
    assert row is not None
    return by_measure(evidence(ALL, row))


def test_a_payment_like_all_others_shows_neither_news_nor_speed() -> None:
    found = strange()
    assert not [item for item in found.values() if item.direction == "new"]
    assert found["distance from usual hours"].value == pytest.approx(0, abs=1e-4)
    assert "speed from the last place" not in found


@pytest.mark.parametrize(
    ("field", "measure"),
    [
        ("merchant", "earlier payments, none at this merchant"),
        ("place", "earlier payments, none in this place"),
        ("method", "earlier payments, none by this method"),
        ("device", "earlier payments, none from this device"),
    ],
)
def test_what_is_new_is_said_beside_how_often_the_user_had_paid(field: str, measure: str) -> None:
    new = [item for item in strange(**{field: "elsewhere"}).values() if item.direction == "new"]
    assert [(item.measure, item.value) for item in new] == [(measure, 12)]


def test_half_a_day_off_is_the_opposite_hour() -> None:
    assert strange(time=NOON + 12 * DAY + 12 * HOUR)["distance from usual hours"].value == pytest.approx(2, abs=1e-4)


def test_a_small_amount_is_below_and_one_too_small_to_tell_is_not_compared() -> None:
    assert strange(amount=1.0)["amount against the mean of 30 days"].direction == "below"
    assert not [measure for measure in strange(amount=0.0001) if measure.startswith("amount")]


def test_numbers_are_rounded_to_what_a_feature_determines() -> None:
    found = Evidence(Reason.BURST, "payments", 1234.56789, 2 / 3, "payments", "above").as_json()
    assert (found["value"], found["usual"]) == (1234.6, 0.66667)
    assert Evidence(Reason.BURST, "payments", 1, None, "payments", "above").as_json()["usual"] is None


def test_evidence_comes_in_the_order_of_the_reasons() -> None:
    row = rows(usual_life())[-1]
    assert row is not None
    wanted = [Reason.SPARSE_USER, Reason.UNUSUAL_AMOUNT]
    reasons = [item.reason for item in evidence([str(reason) for reason in wanted], row)]
    assert list(dict.fromkeys(reasons)) == wanted


def test_features_that_no_payment_can_have_show_nothing() -> None:
    assert found([Reason.UNUSUAL_AMOUNT.value], dict.fromkeys(NAMES, 1e4)) is None
