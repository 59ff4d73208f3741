"""What a score means for the payment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.decision import APPROVE, DECISIONS, REJECT, REVIEW, decide

THRESHOLD = 0.75


def decided(
    score: float, scored: bool = True, threshold: float = THRESHOLD, reject: float | None = None
) -> tuple[bool, str]:
    anomaly, decision = decide(np.array([score], np.float32), np.array([scored]), threshold, reject)
    return bool(anomaly[0]), DECISIONS[decision[0]]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, (False, "approve")),
        (0.7499, (False, "approve")),
        (0.75, (True, "review")),
        (1.0, (True, "review")),
    ],
)
def test_score_at_or_above_the_threshold_is_reviewed(score: float, expected: tuple[bool, str]) -> None:
    assert decided(score) == expected


def test_nothing_is_rejected_while_the_reject_threshold_is_off() -> None:
    assert decided(1.0) == (True, "review")


def test_score_at_or_above_the_reject_threshold_is_rejected() -> None:
    assert decided(0.95, reject=0.95) == (True, "reject")
    assert decided(0.9499, reject=0.95) == (True, "review")


@pytest.mark.parametrize("score", [0.0, 0.99, float("nan")])
@pytest.mark.parametrize("reject", [None, 0.0, 0.5])
def test_unscored_payment_is_reviewed_whatever_its_score_field_holds(score: float, reject: float | None) -> None:
    assert decided(score, scored=False, reject=reject) == (False, "review")


def test_not_a_number_is_never_approved() -> None:
    assert decided(float("nan")) == (False, "review")


def test_threshold_is_compared_in_the_precision_scores_are_stored_in() -> None:
    threshold = 0.7000000001  # as float32 this is 0.7, which a score of float32 0.7 reaches
    assert decided(float(np.float32(0.7)), threshold=threshold) == (True, "review")


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans())),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
)
def test_approved_means_scored_below_both_thresholds(
    rows: list[tuple[float, bool]], threshold: float, reject: float | None
) -> None:
    scores = np.array([score for score, _ in rows], np.float32)
    scored = np.array([flag for _, flag in rows], bool)
    anomaly, decision = decide(scores, scored, threshold, reject)
    below = scored & (scores < np.float32(threshold))
    if reject is not None:
        below &= scores < np.float32(reject)
    assert ((decision == APPROVE) == below).all()
    assert (decision[~scored] == REVIEW).all()
    assert not anomaly[~scored].any()
    assert reject is not None or not (decision == REJECT).any()
