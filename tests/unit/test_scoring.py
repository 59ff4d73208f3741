"""Champion and challenger of a range, over a client that answers, refuses and dawdles as it is told."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from feature_repo.errors import (
    BatchTooLarge,
    DependencyDown,
    FeatureSetMismatch,
    ModelLoading,
    ModelOutputInvalid,
    ModelVersionMismatch,
    VigilError,
)
from feature_repo.features import NAMES, WIDTH, feature_set_id
from serving.client import LoadedModel, Models
from serving.wire import SCORED
from streaming.decisions import MODEL_DOWN, MODEL_FAILED, NOT_UNSCORED
from streaming.scoring import CHALLENGER_PAUSE_S, Challenger, Pin, Pins, Scorer, pins, probe

FIRST, SECOND = ("history", "amount_log"), ("new_merchant",)
X = np.arange(5 * WIDTH, dtype=np.float32).reshape(5, WIDTH)
WITHIN_S = 2.0


def model(version: str, columns: tuple[str, ...]) -> LoadedModel:
    return LoadedModel(version, feature_set_id(columns), columns, 0.5, 0.01, "")


CHAMPION, OTHER = model("1", FIRST), model("2", SECOND)


@dataclass
class FakeClient:
    """Scores a row with the sum of what it is fed. A call takes `seconds` on the test's clock, or all of `within_s`."""

    answer: Models | VigilError
    error: VigilError | None = None
    seconds: float = 0.0
    now: float = 1_000.0
    asked: list[tuple[int, str]] = field(default_factory=list)  # rows, version

    def models(self) -> Models:
        if isinstance(self.answer, VigilError):
            raise self.answer
        return self.answer

    def score(
        self, X: npt.NDArray[np.float32], version: str, feature_set_id: str, within_s: float | None = None
    ) -> npt.NDArray[np.void]:
        self.asked.append((len(X), version))
        self.now += self.seconds if within_s is None else min(self.seconds, within_s)
        if within_s is not None and self.seconds > within_s:
            raise DependencyDown("model service", "here", "no answer in time")
        if self.error is not None:
            raise self.error
        assert isinstance(self.answer, Models)
        self.answer.get(version)
        scored = np.zeros(len(X), SCORED)
        scored["score"] = X.sum(axis=1)
        return scored


def challenger(client: FakeClient, chunk_rows: int = 100) -> Challenger:
    return Challenger(client, chunk_rows, WITHIN_S, clock=lambda: client.now)  # type: ignore[arg-type]  # a fake


def champion(client: FakeClient, chunk_rows: int = 2) -> Scorer:
    """A scorer whose pauses pass on the client's clock."""

    def sleep(seconds: float) -> None:
        client.now += seconds

    return Scorer(client, chunk_rows, WITHIN_S, sleep, lambda: client.now)  # type: ignore[arg-type]  # a fake


BOTH = Models("1", "2", (CHAMPION, OTHER))


def test_both_versions_are_pinned_by_one_question() -> None:
    assert pins(FakeClient(BOTH)) == Pins(Pin.of(CHAMPION), OTHER)  # type: ignore[arg-type]
    assert pins(FakeClient(replace(BOTH, challenger=None))) == Pins(Pin.of(CHAMPION))  # type: ignore[arg-type]


def test_a_challenger_the_answering_worker_does_not_hold_is_none() -> None:
    assert pins(FakeClient(Models("1", "2", (CHAMPION,)))).challenger is None  # type: ignore[arg-type]


def test_without_a_champion_nothing_is_pinned() -> None:
    assert pins(FakeClient(ModelLoading())) == Pins(None)  # type: ignore[arg-type]


def test_a_champion_this_build_cannot_feed_is_an_error_and_not_a_missing_model() -> None:
    newer = replace(CHAMPION, columns=(*FIRST, "of_tomorrow"))
    with pytest.raises(FeatureSetMismatch, match="of_tomorrow"):
        pins(FakeClient(Models("1", None, (newer,))))  # type: ignore[arg-type]


def test_the_challenger_is_fed_its_own_columns_chunk_by_chunk() -> None:
    client = FakeClient(BOTH)
    shadow = challenger(client, chunk_rows=2)(X, OTHER)
    assert shadow is not None and shadow.version == "2"
    np.testing.assert_array_equal(shadow.scores, X[:, NAMES.index("new_merchant")])
    assert client.asked == [(2, "2"), (2, "2"), (1, "2")]


@pytest.mark.parametrize(
    "error",
    [
        DependencyDown("model service", "here", "away"),
        ModelVersionMismatch("2", ["1"]),
        FeatureSetMismatch("fs_1", "fs_2"),
        ModelOutputInvalid("2", "a score outside [0, 1]"),
        VigilError("an unexpected error"),
    ],
    ids=lambda error: error.code,
)
def test_whatever_is_wrong_with_the_challenger_it_is_asked_once_and_said_once(
    error: VigilError, caplog: pytest.LogCaptureFixture
) -> None:
    client = FakeClient(BOTH, error)
    shadowing = challenger(client)
    with caplog.at_level(logging.INFO):
        assert shadowing(X, OTHER) is None
        assert client.asked == [(5, "2")]
        client.now += CHALLENGER_PAUSE_S
        assert shadowing(X, OTHER) is None
    assert len(caplog.records) == 1
    client.error = None
    client.now += CHALLENGER_PAUSE_S
    assert shadowing(X, OTHER) is not None


def test_a_challenger_with_a_feature_of_another_build_is_not_asked() -> None:
    client = FakeClient(BOTH)
    assert challenger(client)(X, replace(OTHER, columns=("of_tomorrow",))) is None
    assert challenger(client)(X, replace(OTHER, feature_set_id="fs_of_another_meaning")) is None
    assert client.asked == []


def test_a_slow_challenger_has_one_deadline_for_the_range_and_is_then_left_alone() -> None:
    client = FakeClient(BOTH, seconds=0.75)
    shadowing = challenger(client, chunk_rows=1)
    assert shadowing(X, OTHER) is None
    assert len(client.asked) == 3, "two answers fit into the two seconds"
    assert shadowing(X, OTHER) is None
    assert len(client.asked) == 3
    client.seconds = 0.0
    assert shadowing(X, replace(OTHER, version="1")) is not None, "another version is not to blame"
    client.now += CHALLENGER_PAUSE_S
    assert shadowing(X, OTHER) is not None


def test_a_challenger_that_moved_is_asked_again_with_the_next_range() -> None:
    client = FakeClient(BOTH, ModelVersionMismatch("2", ["1"]))
    shadowing = challenger(client)
    assert shadowing(X, OTHER) is None
    client.error = None
    assert shadowing(X, OTHER) is not None


def test_a_champion_that_moved_scores_the_whole_range_again_under_one_version() -> None:
    client = FakeClient(Models("2", None, (OTHER,)))
    scores = champion(client)(X, Pin.of(CHAMPION))
    assert scores.pin == Pin.of(OTHER)
    assert (scores.unscored == NOT_UNSCORED).all()
    np.testing.assert_array_equal(scores.records["score"], X[:, NAMES.index("new_merchant")])


AWAY = DependencyDown("model service", "here", "no answer")


@pytest.mark.parametrize("error", [ModelOutputInvalid("1", "a score that is not finite"), BatchTooLarge(5, 4)])
def test_a_champion_whose_answer_cannot_be_used_leaves_the_range_unscored(error: VigilError) -> None:
    client = FakeClient(Models("1", None, (CHAMPION,)), error=error)
    scores = champion(client)(X, Pin.of(CHAMPION))
    assert set(scores.unscored.tolist()) == {MODEL_FAILED}
    assert len(client.asked) == 1


def test_a_silent_service_costs_a_range_one_deadline_and_not_one_for_each_chunk() -> None:
    client = FakeClient(BOTH, AWAY, seconds=WITHIN_S)  # it hangs: each call takes all the time it is given
    scores = champion(client, chunk_rows=1)(X, Pin.of(CHAMPION))
    assert (scores.unscored == MODEL_DOWN).all() and len(scores.unscored) == len(X)
    assert len(client.asked) == 1


def test_a_service_that_refuses_is_asked_again_until_the_deadline_and_no_longer() -> None:
    client = FakeClient(BOTH, AWAY, seconds=0.01)
    began = client.now
    scores = champion(client)(X, Pin.of(CHAMPION))
    assert (scores.unscored == MODEL_DOWN).all()
    assert len(client.asked) > 3 and client.now - began <= WITHIN_S


def test_what_was_scored_before_the_service_fell_silent_keeps_its_score() -> None:
    client = FakeClient(BOTH)
    score = client.score

    def once(*args: Any) -> npt.NDArray[np.void]:
        if client.asked:
            client.error = AWAY
        return score(*args)

    client.score = once  # type: ignore[method-assign]
    scores = champion(client)(X, Pin.of(CHAMPION))
    assert scores.unscored.tolist() == [NOT_UNSCORED, NOT_UNSCORED, MODEL_DOWN, MODEL_DOWN, MODEL_DOWN]


def test_other_ranges_of_the_batch_do_not_ask_a_silent_service_but_the_next_batch_does() -> None:
    client = FakeClient(BOTH, AWAY)
    scorer, pin = champion(client), Pin.of(CHAMPION, 1)
    scorer(X, pin)
    asked = len(client.asked)
    client.error = None
    assert (scorer(X, pin).unscored == MODEL_DOWN).all()
    assert len(client.asked) == asked
    assert (scorer(X, Pin.of(CHAMPION, 2)).unscored == NOT_UNSCORED).all()


def test_a_service_that_is_gone_when_the_range_pins_anew_leaves_it_unscored() -> None:
    client = FakeClient(AWAY, ModelVersionMismatch("1", ["2"]))
    assert (champion(client)(X, Pin.of(CHAMPION)).unscored == MODEL_DOWN).all()


def test_a_probe_asks_for_a_score_and_not_only_for_an_answer() -> None:
    probe(FakeClient(BOTH))  # type: ignore[arg-type]
    for client in (FakeClient(BOTH, AWAY), FakeClient(AWAY), FakeClient(ModelLoading())):
        with pytest.raises((DependencyDown, ModelLoading)):
            probe(client)  # type: ignore[arg-type]
