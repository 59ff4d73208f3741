"""Two scorings of the same payments: numbers side by side, their difference, and how much chance is in it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training import bootstrap, evaluation
from training.bootstrap import BoolArray, DoubleArray, FloatArray, Interval, Users

CARD_PRECISION = f"card_precision_{evaluation.CARDS_PER_DAY}"


@dataclass(frozen=True)
class Payments:
    """Both scores of n payments and what is known of each; `day` counts from 1970, UTC."""

    a: FloatArray
    b: FloatArray
    fraud: BoolArray  # known to be
    user: npt.NDArray[Any]  # any identity that can be compared for equality
    day: npt.NDArray[np.int64]
    amount: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Pair:
    """One number of both versions; `gain` is that of B minus that of A, over draws of users."""

    name: str
    a: float
    b: float
    gain: Interval

    @classmethod
    def of(cls, name: str, values: tuple[float, float], draws: tuple[DoubleArray, DoubleArray]) -> "Pair":
        (a, b), (of_a, of_b) = values, draws
        return cls(name, a, b, bootstrap.interval(b - a, of_b - of_a))

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "a": self.a, "b": self.b, "gain": self.gain.as_json()}


def agreement(payments: Payments, budget: float) -> dict[str, Any]:
    """How alike the two rank: correlation of ranks, and alerts at the budget that both or only one would raise.

    `overlap` is the share of all alerts that both raise; the correlation is None where one ranks nothing.
    """
    from scipy.stats import spearmanr  # a second to import

    a, b = (evaluation.top(score, budget) for score in (payments.a, payments.b))
    constant = np.ptp(payments.a) == 0 or np.ptp(payments.b) == 0
    return {
        "rank_correlation": None if constant else float(spearmanr(payments.a, payments.b).statistic),
        "alerts": {
            "a": int(a.sum()),
            "b": int(b.sum()),
            "both": int((a & b).sum()),
            "overlap": float((a & b).sum() / (a | b).sum()),
        },
        "frauds_caught": {
            "a": int((a & payments.fraud).sum()),
            "b": int((b & payments.fraud).sum()),
            "both": int((a & b & payments.fraud).sum()),
        },
    }


def judged(payments: Payments, budget: float, users: Users) -> list[Pair]:
    """Every metric of both, where all frauds are known; none without a fraud, or with nothing else."""
    fraud = payments.fraud
    if not fraud.any() or fraud.all():
        return []
    values, draws = [], []
    for score in (payments.a, payments.b):
        values.append(evaluation.evaluate(score, fraud, users.codes, payments.day, payments.amount, budget))
        draws.append(_draws(score, payments, budget, users))
    return [Pair.of(name, (values[0][name], values[1][name]), (draws[0][name], draws[1][name])) for name in draws[0]]


def caught(payments: Payments, budget: float) -> list[Pair]:
    """Frauds and their money among the alerts, where only some frauds are known; none without any.

    Draws are of the users who had one: the others change neither what was caught nor what there was to catch.
    """
    fraud = payments.fraud
    if not fraud.any():
        return []
    users = Users.drawn(payments.user[fraud])
    alerts = [evaluation.top(score, budget)[fraud] for score in (payments.a, payments.b)]
    pairs = []
    for name, whole in (("recall_at_budget", np.ones(fraud.sum())), ("money_caught_at_budget", payments.amount[fraud])):
        parts = [whole * alert for alert in alerts]
        values = (float(parts[0].sum() / whole.sum()), float(parts[1].sum() / whole.sum()))
        draws = (bootstrap.ratios(parts[0], whole, users), bootstrap.ratios(parts[1], whole, users))
        pairs.append(Pair.of(name, values, draws))
    return pairs


def _draws(score: FloatArray, payments: Payments, budget: float, users: Users) -> dict[str, DoubleArray]:
    """By metric, in the order of the report. Alerts and the 1 % of ordinary payments stay those of the whole."""
    fraud = payments.fraud
    alerts = evaluation.top(score, budget)
    above = score > np.quantile(score[~fraud], 1 - evaluation.FALSE_POSITIVE_RATE)
    shares = {"recall_at_1_percent_fpr": (above & fraud, fraud)}
    shares |= evaluation.shares_at_budget(alerts, fraud, payments.amount)
    return {
        "average_precision": bootstrap.average_precisions(score, fraud, users),
        CARD_PRECISION: card_precisions(score, fraud, payments.day, users),
        **{name: bootstrap.ratios(part, whole, users) for name, (part, whole) in shares.items()},
    }


def card_precisions(
    score: FloatArray, fraud: BoolArray, day: npt.NDArray[np.int64], users: Users, cards: int = evaluation.CARDS_PER_DAY
) -> DoubleArray:
    """evaluation.card_precision of each draw, [replicates]; a card drawn twice is two cards."""
    days = [_ranked(users.codes[rows], score[rows], fraud[rows]) for rows in (day == one for one in np.unique(day))]
    result = np.empty(len(users.counts))
    for draw, counts in enumerate(users.counts):
        left = counts.astype(np.int64)
        hits = 0
        for card, compromised in days:
            weight = left[card]
            before = np.cumsum(weight) - weight
            found = np.clip(cards - before, 0, weight) * compromised
            left[card] -= found  # looked at no more
            hits += int(found.sum())
        result[draw] = hits / cards / len(days)
    return result


def _ranked(
    card: npt.NDArray[np.int64], score: FloatArray, fraud: BoolArray
) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """A day's cards, the one with the highest score first, and which of them are compromised."""
    cards, codes = np.unique(card, return_inverse=True)
    highest = np.full(len(cards), -np.inf)
    np.maximum.at(highest, codes, score)
    compromised = np.zeros(len(cards), bool)
    compromised[codes[fraud]] = True
    order = np.argsort(-highest, kind="stable")
    return cards[order], compromised[order]
