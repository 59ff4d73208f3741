"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest

from feature_repo.features import REASONS, Reason
from serving.wire import NO_REASON, SCORED
from training import evaluation


def test_average_precision_of_a_known_ranking() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    fraud = np.array([True, False, True, False])
    assert evaluation.average_precision(score, fraud) == pytest.approx((1 + 2 / 3) / 2)


def test_a_card_counts_once_a_day_and_is_not_looked_at_again_once_found() -> None:
    user = np.array(["a", "a", "b", "c", "a", "b", "c"])
    day = np.array([1, 1, 1, 1, 2, 2, 2])
    score = np.array([0.9, 0.8, 0.7, 0.1, 0.9, 0.8, 0.5], np.float32)
    fraud = np.array([True, True, False, True, True, False, True])
    # Day 1: cards a, b are looked at, a is found. Day 2: a is out; b, c are looked at, c is found.
    assert evaluation.card_precision(score, fraud, user, day, cards=2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_a_card_is_compromised_by_any_payment_of_the_day() -> None:
    user, day = np.array(["a", "a"]), np.array([1, 1])
    score = np.array([0.9, 0.1], np.float32)
    assert evaluation.card_precision(score, np.array([False, True]), user, day, cards=1) == 1


def test_fewer_cards_than_are_looked_at_still_divide_by_the_budget() -> None:
    user, day = np.array(["a", "b"]), np.array([1, 1])
    score = np.array([0.9, 0.1], np.float32)
    assert evaluation.card_precision(score, np.array([True, False]), user, day, cards=100) == pytest.approx(0.01)


def test_recall_at_a_false_positive_rate() -> None:
    score = np.r_[np.linspace(0, 1, 1_001), 0.995, 0.5].astype(np.float32)
    fraud = np.r_[np.zeros(1_001, bool), True, True]
    assert evaluation.recall_at(score, fraud, 0.01) == pytest.approx(0.5)


def test_the_top_share_has_at_least_one_row() -> None:
    assert evaluation.top(np.array([0.1, 0.3, 0.2], np.float32), 0.01).tolist() == [False, True, False]


def test_money_caught_is_the_share_of_stolen_money_among_the_alerts() -> None:
    score = np.linspace(0, 1, 100).astype(np.float32)
    fraud = np.zeros(100, bool)
    fraud[[99, 10]] = True
    amount = np.ones(100)
    amount[99] = 30.0
    amount[10] = 10.0
    metrics = evaluation.evaluate(score, fraud, np.arange(100), np.zeros(100, int), amount, alert_budget=0.02)
    assert metrics["money_caught_at_budget"] == pytest.approx(0.75)
    assert metrics["precision_at_budget"] == pytest.approx(0.5)
    assert metrics["recall_at_budget"] == pytest.approx(0.5)


def test_without_a_known_fraud_nothing_is_made_up() -> None:
    zeros = np.zeros(10, bool)
    metrics = evaluation.evaluate(
        np.arange(10, dtype=np.float32), zeros, np.arange(10), np.zeros(10, int), np.ones(10), 0.1
    )
    assert metrics == {"rows": 10, "frauds": 0}
    assert evaluation.curves(np.arange(10, dtype=np.float32), zeros) == {}


def test_curves_end_where_everything_is_an_alert() -> None:
    score = np.random.default_rng(1).random(5_000).astype(np.float32)
    fraud = np.random.default_rng(2).random(5_000) < 0.02
    curve = evaluation.curves(score, fraud)
    assert curve["recall"][-1] == 1
    assert curve["precision"][-1] == pytest.approx(fraud.mean())
    assert curve["false_positive_rate"][-1] == 1


def scored(*rows: tuple[float, list[Reason]]) -> np.ndarray:
    result = np.zeros(len(rows), SCORED)
    result["reasons"] = NO_REASON
    for row, (score, reasons) in enumerate(rows):
        result["score"][row] = score
        result["reasons"][row, : len(reasons)] = [REASONS.index(reason) for reason in reasons]
    return result


def test_reason_hits_count_true_fraud_in_the_top_scores_only() -> None:
    ordinary: list[tuple[float, list[Reason]]] = [(0.5 - row / 1_000, []) for row in range(298)]
    rows = scored(
        (0.9, [Reason.BURST, Reason.UNUSUAL_AMOUNT]),
        (0.8, [Reason.UNUSUAL_AMOUNT]),
        *ordinary,
    )
    mechanism = np.array(["testing", "stolen", *[""] * 297, "testing"])
    reason = np.array([str(Reason.UNUSUAL_AMOUNT), str(Reason.UNUSUAL_AMOUNT), *[""] * 297, str(Reason.BURST)])
    hits = evaluation.reason_hits(rows["score"], rows["reasons"], mechanism, reason, frozenset())
    assert (hits["frauds"], hits["first"], hits["first_three"]) == (2, 0.5, 1.0)
    left = evaluation.reason_hits(rows["score"], rows["reasons"], mechanism, reason, frozenset({"testing"}))
    assert (left["frauds"], left["first"]) == (1, 1.0)


def test_slices_judge_each_group_alone() -> None:
    score = np.array([0.9, 0.2, 0.8, 0.7], np.float32)
    fraud = np.array([True, False, False, True])
    alerts = score >= 0.75
    found = evaluation.slices(score, fraud, alerts, {"a": np.arange(4) < 2, "b": np.arange(4) >= 2})
    assert found["a"] == {
        "rows": 2, "frauds": 1, "alert_share": 0.5, "average_precision": 1.0, "recall_at_budget": 1.0
    }  # fmt: skip
    assert (found["b"]["average_precision"], found["b"]["recall_at_budget"]) == (0.5, 0.0)


def test_a_group_without_fraud_is_only_counted() -> None:
    score, none = np.array([0.9, 0.2], np.float32), np.zeros(2, bool)
    found = evaluation.slices(score, none, score > 0.5, {"a": ~none, "b": none})
    assert found == {"a": {"rows": 2, "frauds": 0, "alert_share": 0.5}}


def test_a_mechanism_is_judged_against_genuine_payments_only() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    mechanism = np.array(["stolen", "testing", "", ""])
    found = evaluation.by_mechanism(score, mechanism, np.array([10.0, 5.0, 1.0, 1.0]), score >= 0.85)
    assert found["testing"]["average_precision"] == 1
    assert (found["stolen"]["recall_at_budget"], found["testing"]["recall_at_budget"]) == (1, 0)


def test_any_true_reason_counts_and_the_main_one_is_counted_apart() -> None:
    ordinary: list[tuple[float, list[Reason]]] = [(0.5 - row / 1_000, []) for row in range(198)]
    rows = scored((0.9, [Reason.BURST, Reason.CARD_TESTING]), (0.8, [Reason.NEW_LOCATION]), *ordinary)
    mechanism = np.array(["testing", "testing", *[""] * 198])
    main = np.array([str(Reason.CARD_TESTING)] * 2 + [""] * 198)
    true = np.zeros((200, len(REASONS)), bool)
    true[:2, [REASONS.index(Reason.CARD_TESTING), REASONS.index(Reason.BURST)]] = True
    hits = evaluation.reason_hits(rows["score"], rows["reasons"], mechanism, main, frozenset(), true)
    assert (hits["first"], hits["first_three"]) == (0.5, 0.5)
    assert (hits["main"], hits["main_three"]) == (0.0, 0.5)
