"""Two scorings of the same payments, side by side."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.compare import paired
from pipelines.compare.paired import CARD_PRECISION, Payments
from training import evaluation
from training.bootstrap import Users

BUDGET = 0.02
USERS, DAYS = 300, 12


def payments(seed: int = 1, rows: int = 6_000) -> Payments:
    """A finds some of the frauds, B more of them."""
    generator = np.random.default_rng(seed)
    user = generator.integers(0, USERS, rows)
    fraud = generator.random(rows) < 0.01
    noise = generator.random((2, rows))
    a = np.where(fraud & (noise[0] < 0.4), 2, noise[0]).astype(np.float32)
    b = np.where(fraud & (noise[1] < 0.8), 2, noise[1]).astype(np.float32)
    a[a == 2] += generator.random((a == 2).sum())
    b[b == 2] += generator.random((b == 2).sum())
    return Payments(a, b, fraud, user, generator.integers(0, DAYS, rows), generator.lognormal(3, 0.3, rows))


@pytest.fixture(scope="module")
def rows() -> Payments:
    return payments()


@pytest.fixture(scope="module")
def users(rows: Payments) -> Users:
    return Users.drawn(rows.user, replicates=60)


def test_every_number_is_the_evaluations_and_the_better_version_shows(rows: Payments, users: Users) -> None:
    said = {pair.name: pair for pair in paired.judged(rows, BUDGET, users)}
    for name in ("average_precision", CARD_PRECISION, "recall_at_1_percent_fpr", "money_caught_at_budget"):
        pair = said[name]
        for value, score in ((pair.a, rows.a), (pair.b, rows.b)):
            told = evaluation.evaluate(score, rows.fraud, rows.user, rows.day, rows.amount, BUDGET)
            assert value == told[name]
        assert pair.gain.value == pair.b - pair.a
        assert 0 < pair.gain.low <= pair.gain.high, name
    assert json.loads(json.dumps([pair.as_json() for pair in said.values()], allow_nan=False))


def test_a_version_does_not_differ_from_itself(rows: Payments, users: Users) -> None:
    same = replace(rows, b=rows.a)
    for pair in [*paired.judged(same, BUDGET, users), *paired.caught(same, BUDGET)]:
        assert (pair.gain.value, pair.gain.low, pair.gain.high) == (0, 0, 0), pair.name


def test_card_precision_of_a_draw_is_that_of_the_drawn_people(rows: Payments, users: Users) -> None:
    """A person drawn twice is two people with the same payments."""
    cards = 40
    found = paired.card_precisions(rows.b, rows.fraud, rows.day, users, cards)
    for draw in range(5):
        times = users.counts[draw][users.codes]
        repeated = np.repeat(np.arange(len(rows)), times)
        copy = np.concatenate([np.arange(count) for count in times])
        people = users.codes[repeated] * 1_000 + copy
        told = evaluation.card_precision(rows.b[repeated], rows.fraud[repeated], people, rows.day[repeated], cards)
        assert found[draw] == pytest.approx(told, abs=1e-12)


def test_agreement_counts_alerts_of_both_and_of_one() -> None:
    a = np.arange(100, dtype=np.float32)
    fraud = a >= 98
    some = Payments(a, a, fraud, np.arange(100), np.zeros(100, np.int64), np.ones(100))
    same = paired.agreement(some, 0.1)
    assert same["rank_correlation"] == pytest.approx(1)
    assert same["alerts"] == {"a": 10, "b": 10, "both": 10, "overlap": 1.0}
    assert same["frauds_caught"] == {"a": 2, "b": 2, "both": 2}
    against = paired.agreement(replace(some, b=-a), 0.1)
    assert against["rank_correlation"] == pytest.approx(-1)
    assert against["alerts"] == {"a": 10, "b": 10, "both": 0, "overlap": 0.0}
    assert against["frauds_caught"] == {"a": 2, "b": 0, "both": 0}


def test_a_version_that_ranks_nothing_has_no_correlation(rows: Payments) -> None:
    flat = replace(rows, b=np.full(len(rows), 0.5, np.float32))
    said = paired.agreement(flat, BUDGET)
    assert said["rank_correlation"] is None
    assert said["alerts"]["b"] == len(rows), "a tie at the last place takes all of it"


def test_without_a_known_fraud_nothing_is_made_up(rows: Payments, users: Users) -> None:
    none = replace(rows, fraud=np.zeros(len(rows), bool))
    assert paired.judged(none, BUDGET, users) == []
    assert paired.caught(none, BUDGET) == []
    assert paired.agreement(none, BUDGET)["frauds_caught"] == {"a": 0, "b": 0, "both": 0}


def test_caught_frauds_are_those_among_the_alerts(rows: Payments) -> None:
    frauds, money = paired.caught(rows, BUDGET)
    alerts = evaluation.top(rows.b, BUDGET)
    assert frauds.b == (alerts & rows.fraud).sum() / rows.fraud.sum()
    assert money.b == pytest.approx(rows.amount[alerts & rows.fraud].sum() / rows.amount[rows.fraud].sum())
    assert frauds.gain.low > 0
