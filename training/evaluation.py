"""How well scores find fraud: the numbers of MODELS.md §2, on rows whose labels are known.

Judge by average precision and card precision, not by AUC: at half a percent of fraud AUC is decided by the
bulk of ordinary payments that nobody would ever look at.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.features import REASONS
from serving.wire import NO_REASON
from training import bootstrap

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

CARDS_PER_DAY = 100
FALSE_POSITIVE_RATE = 0.01
TOP_SHARE = 0.01  # of scores, within which reasons are judged
CURVE_POINTS = 200
REPLICATES = 200  # of the users, for the intervals of a report; the gate draws more
MIN_FRAUDS_PER_MECHANISM = 50  # in the top scores, for a hit rate worth printing (MODELS.md §3)


def evaluate(
    score: FloatArray,
    fraud: BoolArray,
    user: npt.NDArray[Any],
    day: npt.NDArray[np.int64],
    amount: npt.NDArray[Any],
    alert_budget: float,
) -> dict[str, float]:
    """Metrics of one scoring of n payments; without a known fraud only the counts, nothing is made up."""
    counts = {"rows": float(len(score)), "frauds": float(fraud.sum())}
    if not fraud.any() or fraud.all():
        return counts
    alerts = top(score, alert_budget)
    return {
        **counts,
        "prevalence": float(fraud.mean()),
        "average_precision": average_precision(score, fraud),
        "auc": auc(score, fraud),
        f"card_precision_{CARDS_PER_DAY}": card_precision(score, fraud, user, day, CARDS_PER_DAY),
        "recall_at_1_percent_fpr": recall_at(score, fraud, FALSE_POSITIVE_RATE),
        "recall_at_budget": float(fraud[alerts].sum() / fraud.sum()),
        "precision_at_budget": float(fraud[alerts].mean()),
        "money_caught_at_budget": float(amount[alerts & fraud].sum() / amount[fraud].sum()),
    }


def shares_at_budget(
    alerts: BoolArray, fraud: BoolArray, amount: npt.NDArray[Any]
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """By metric, what each payment adds to the part and to the whole whose sums' ratio it is."""
    caught, money = alerts & fraud, np.asarray(amount, np.float64)
    return {
        "recall_at_budget": (caught, fraud),
        "precision_at_budget": (caught, alerts),
        "money_caught_at_budget": (money * caught, money * fraud),
    }


def with_intervals(
    score: FloatArray, fraud: BoolArray, user: npt.NDArray[Any], amount: npt.NDArray[Any], alerts: BoolArray
) -> dict[str, list[float]]:
    """95 % bootstrap intervals over users, by metric; the alerts stay those of the whole."""
    if not fraud.any() or fraud.all():
        return {}
    users = bootstrap.Users.drawn(user, REPLICATES)
    draws = {"average_precision": bootstrap.average_precisions(score, fraud, users)}
    for name, (part, whole) in shares_at_budget(alerts, fraud, amount).items():
        draws[name] = bootstrap.ratios(part, whole, users)
    found = {name: bootstrap.interval(float("nan"), values) for name, values in draws.items()}
    return {name: [interval.low, interval.high] for name, interval in found.items()}


def slices(
    score: FloatArray, fraud: BoolArray, alerts: BoolArray, groups: Mapping[str, BoolArray]
) -> dict[str, dict[str, float]]:
    """Counts, average precision and recall within each group that has a payment; `groups` are masks [n] by name."""
    result = {}
    for name, rows in groups.items():
        if not rows.any():
            continue
        found: dict[str, float] = {"rows": float(rows.sum()), "frauds": float(fraud[rows].sum())}
        found["alert_share"] = float(alerts[rows].mean())
        if fraud[rows].any() and not fraud[rows].all():
            found["average_precision"] = average_precision(score[rows], fraud[rows])
            found["recall_at_budget"] = float(alerts[rows & fraud].mean())
        result[name] = found
    return result


def by_mechanism(
    score: FloatArray, mechanism: npt.NDArray[Any], amount: npt.NDArray[Any], alerts: BoolArray
) -> dict[str, dict[str, float]]:
    """Each mechanism's true frauds against all genuine payments; `mechanism` is empty for those."""
    result = {}
    for name in np.unique(mechanism[mechanism != ""]):
        fraud = mechanism == name
        rows = fraud | (mechanism == "")
        result[str(name)] = {
            "frauds": float(fraud.sum()),
            "average_precision": average_precision(score[rows], fraud[rows]),
            "auc": auc(score[rows], fraud[rows]),
            "recall_at_budget": float(alerts[fraud].mean()),
            "money_caught_at_budget": float(amount[fraud & alerts].sum() / amount[fraud].sum()),
        }
    return result


def average_precision(score: FloatArray, fraud: BoolArray) -> float:
    """Area under precision over recall, ties counted together."""
    from sklearn.metrics import average_precision_score  # a second to import, needed only here

    return float(average_precision_score(fraud, score))


def auc(score: FloatArray, fraud: BoolArray) -> float:
    """Chance that a fraud scores above an ordinary payment."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(fraud, score))


def top(score: FloatArray, share: float) -> BoolArray:
    """The rows of the `share` highest scores: at least one, and more where the last place is tied."""
    return score >= np.partition(score, -_count(len(score), share))[-_count(len(score), share)]


def card_precision(
    score: FloatArray, fraud: BoolArray, user: npt.NDArray[Any], day: npt.NDArray[np.int64], cards: int
) -> float:
    """Mean over days of the share of compromised cards among the `cards` with the highest score.

    A card counts once a day with its highest score, is compromised if any of its payments that day is
    fraud, and is looked at no more once found (Le Borgne et al., Fraud Detection Handbook, chapter 4).
    """
    codes = np.unique(user, return_inverse=True)[1]
    found = np.zeros(codes.max() + 1, bool)
    precision = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~found[codes])
        highest = np.full(len(found), -np.inf)
        np.maximum.at(highest, codes[rows], score[rows])
        compromised = np.zeros(len(found), bool)
        compromised[codes[rows[fraud[rows]]]] = True
        ranked = np.argsort(-highest, kind="stable")[:cards]
        hits = ranked[compromised[ranked]]
        found[hits] = True
        precision.append(len(hits) / cards)
    return float(np.mean(precision))


def recall_at(score: FloatArray, fraud: BoolArray, false_positive_rate: float) -> float:
    """Share of frauds above the score that this share of ordinary payments exceed."""
    return float((score[fraud] > np.quantile(score[~fraud], 1 - false_positive_rate)).mean())


def curves(score: FloatArray, fraud: BoolArray) -> dict[str, list[float]]:
    """Precision, recall and false positive rate down the ranking, at CURVE_POINTS ranks, denser at the top."""
    if not fraud.any() or fraud.all():
        return {}
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(fraud[order])
    ranks = np.unique(np.geomspace(1, len(score), CURVE_POINTS).astype(int))
    found = hits[ranks - 1]
    return {
        "alerts": (ranks / len(score)).tolist(),
        "precision": (found / ranks).tolist(),
        "recall": (found / fraud.sum()).tolist(),
        "false_positive_rate": ((ranks - found) / (~fraud).sum()).tolist(),
    }


def reason_hits(
    score: FloatArray,
    reasons: npt.NDArray[np.uint8],
    mechanism: npt.NDArray[Any],
    reason: npt.NDArray[Any],
    leave_out: frozenset[str],
    true: BoolArray | None = None,
) -> dict[str, Any]:
    """How often the first, and one of the first three, reasons are true.

    Over true fraud in the top 1 % of scores, overall and per mechanism with enough cases. `reasons` are codes
    [n, MAX_REASONS], NO_REASON behind the last; `mechanism` and `reason`, the one to read first, are texts, empty
    for ordinary payments; mechanisms in `leave_out` do not count. `true` [n, REASONS] are all codes that are true
    of a payment: then `first` and `first_three` count any of them, and `main` and `main_three` that one alone.
    """
    names = np.array([str(code) for code in REASONS] + [""] * (NO_REASON + 1 - len(REASONS)))
    judged = np.flatnonzero(top(score, TOP_SHARE) & (mechanism != "") & ~np.isin(mechanism, list(leave_out)))
    given = reasons[judged]
    main = names[given] == reason[judged][:, None]
    right = {"first": main[:, 0], "first_three": main[:, :3].any(axis=1)}
    if true is not None:
        told = np.zeros((len(judged), NO_REASON + 1), bool)
        told[:, : len(REASONS)] = true[judged]
        any_true = np.take_along_axis(told, given.astype(np.intp), axis=1)
        right |= {"main": right["first"], "main_three": right["first_three"]}
        right |= {"first": any_true[:, 0], "first_three": any_true[:, :3].any(axis=1)}

    def rates(cases: BoolArray) -> dict[str, float]:
        hits = {name: float(hit[cases].mean()) for name, hit in right.items()} if cases.any() else {}
        return {"frauds": int(cases.sum()), **hits}

    groups = {str(name): mechanism[judged] == name for name in np.unique(mechanism[judged])}
    enough = {name: cases for name, cases in groups.items() if cases.sum() >= MIN_FRAUDS_PER_MECHANISM}
    return rates(np.ones(len(judged), bool)) | {"mechanisms": {name: rates(cases) for name, cases in enough.items()}}


def _count(rows: int, share: float) -> int:
    return max(1, round(rows * share))
