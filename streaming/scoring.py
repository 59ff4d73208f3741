"""Step 5: scores from the model service, under one pinned version for the whole range.

The champion is asked patiently, once per batch: a service that stays silent for one deadline is not asked again under
the same pins, and the payments go without a score. The challenger is asked once, after it, and is never worth a delay.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from feature_repo.errors import (
    DependencyDown,
    FeatureSetMismatch,
    ModelLoading,
    ModelVersionMismatch,
    VigilError,
)
from feature_repo.features import feature_set_id, positions
from serving.client import LoadedModel, ModelClient
from serving.wire import SCORED as SCORED_RECORD
from streaming.breaker import pause_s
from streaming.decisions import FEATURE_SET_MISMATCH, MODEL_DOWN, MODEL_FAILED, NOT_UNSCORED, Shadow

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1  # at most, between the first two calls for a chunk; doubled after each failed call
REPINS = 5  # the alias moving faster than this is a fault of its own: the range goes unscored
CHALLENGER_PAUSE_S = 30.0  # how long a challenger that did not answer in time is left alone


@dataclass(frozen=True)
class Pin:
    """The model version a range is scored with, and what is needed to feed it."""

    version: str
    feature_set_id: str
    columns: tuple[int, ...]  # positions in features.NAMES
    threshold: float  # score at or above which a payment is an anomaly
    number: int = 0  # of the attempt at a batch it was made for

    @classmethod
    def of(cls, model: LoadedModel, number: int = 0) -> "Pin":
        """Raises FeatureSetMismatch where the running kernel cannot compute what the model consumes."""
        try:
            columns = tuple(positions(model.columns))
        except KeyError as error:
            raise FeatureSetMismatch(f"feature {error.args[0]}", "a kernel without it") from error
        ours = feature_set_id(model.columns)
        if ours != model.feature_set_id:
            raise FeatureSetMismatch(model.feature_set_id, ours)
        return cls(model.version, model.feature_set_id, columns, model.threshold, number)


@dataclass(frozen=True)
class Pins:
    """The versions a batch is scored with; None for one that is not to be had, `silence` says why the champion is not.

    What is wrong with the challenger shows when it is asked, so nobody has looked at it yet.
    """

    champion: Pin | None
    challenger: LoadedModel | None = None
    silence: int = MODEL_DOWN  # position in UNSCORED_REASONS


@dataclass(frozen=True)
class Scores:
    """Scores of n payments: wire.SCORED records, why one has none (255 where it has), the version used."""

    records: npt.NDArray[np.void]
    unscored: npt.NDArray[np.uint8]
    pin: Pin | None


def pins(client: ModelClient, number: int = 0) -> Pins:
    """The versions to pin now: none while the service has none.

    Raises DependencyDown, and FeatureSetMismatch where this build cannot compute what the champion consumes.
    """
    try:
        models = client.models()
        champion = Pin.of(models.get(models.champion), number)
    except (ModelLoading, ModelVersionMismatch) as error:
        log.warning("no champion to pin: %s", error)
        return Pins(None)
    challenger = next((model for model in models.loaded if model.version == models.challenger), None)
    return Pins(champion, challenger)


def probe(client: ModelClient) -> None:
    """Asks for the score of one row, as a batch would for many. Raises what keeps it from having one."""
    models = client.models()
    model = models.get(models.champion)
    client.score(np.zeros((1, len(model.columns)), np.float32), model.version, model.feature_set_id)


class Scorer:
    """Scores ranges through one client. `sleep` and `clock` (seconds) are passed in so that tests need not wait."""

    def __init__(
        self,
        client: ModelClient,
        chunk_rows: int,
        within_s: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._chunk_rows = chunk_rows
        self._within_s = within_s  # for one chunk, all calls and pauses together
        self._sleep = sleep
        self._clock = clock
        self._silent: Pin | None = None  # what the service was last asked for in vain

    def __call__(self, features: npt.NDArray[np.float32], pin: Pin | None) -> Scores:
        """Score float32[n, WIDTH]. One version for all n: a version that went away starts the range again.

        Never raises for a model that is away, or gives no usable answer: those payments carry the reason they have no
        score. A version with one answer that cannot be used is taken for broken: none of the n gets its score.
        """
        if pin is None or pin == self._silent:
            return without(len(features), MODEL_DOWN)
        scores = self._newest(features, pin)
        if (scores.unscored == MODEL_DOWN).any():
            self._silent = pin
        return scores

    def _newest(self, features: npt.NDArray[np.float32], pin: Pin | None) -> Scores:
        for _ in range(REPINS):
            if pin is None:
                break
            try:
                return self._under(features, pin)
            except ModelVersionMismatch as error:
                log.info("version %s is no longer loaded (%s), pinning anew", pin.version, error)
            except FeatureSetMismatch as error:
                log.error("the model cannot be fed: %s", error)
                return without(len(features), FEATURE_SET_MISMATCH)
            except VigilError as error:
                log.error("version %s gives no scores: %s %s", pin.version, error.code, error)
                return without(len(features), MODEL_FAILED)
            try:
                pin = pins(self._client).champion
            except DependencyDown as error:
                log.warning("model service: %s", error)
                break
        return without(len(features), MODEL_DOWN)

    def _under(self, features: npt.NDArray[np.float32], pin: Pin) -> Scores:
        scores = Scores(
            records=np.zeros(len(features), SCORED_RECORD),
            unscored=np.full(len(features), NOT_UNSCORED, np.uint8),
            pin=pin,
        )
        scores.records["reasons"] = 255
        columns = features[:, pin.columns]
        for start in range(0, len(features), self._chunk_rows):
            chunk = slice(start, start + self._chunk_rows)
            answer = self._patiently(columns[chunk], pin)
            if answer is None:  # the service is away: asking for the rest would only add to the delay
                scores.unscored[start:] = MODEL_DOWN
                break
            scores.records[chunk] = answer
        return scores

    def _patiently(self, columns: npt.NDArray[np.float32], pin: Pin) -> npt.NDArray[np.void] | None:
        deadline = self._clock() + self._within_s
        for tries in count():
            try:
                return self._client.score(columns, pin.version, pin.feature_set_id, deadline - self._clock())
            except (DependencyDown, ModelLoading) as error:
                pause = pause_s(tries, FIRST_PAUSE_S, self._within_s)
                if self._clock() + pause >= deadline:
                    log.warning("model service: %s", error)
                    return None
                self._sleep(pause)
        raise AssertionError("counts for ever")


class Challenger:
    """Scores ranges with the challenger. Whatever goes wrong, there are simply no scores; it is logged once.

    A range has one deadline and no second try. A challenger that misses it is not asked again for
    CHALLENGER_PAUSE_S, so that a slow one does not slow every range. `clock` counts seconds.
    """

    def __init__(
        self, client: ModelClient, chunk_rows: int, within_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._chunk_rows = chunk_rows
        self._within_s = within_s
        self._clock = clock
        self._late: tuple[str, float] = ("", 0.0)  # a version, and until when it is left alone
        self._said: tuple[str, str] | None = None  # version and code of what was logged last

    def __call__(self, features: npt.NDArray[np.float32], model: LoadedModel) -> Shadow | None:
        """Scores of float32[n, WIDTH], of all n or none."""
        version, until = self._late
        if model.version == version and self._clock() < until:
            return None
        try:
            scores = self._scores(features, Pin.of(model))
        except VigilError as error:
            if isinstance(error, DependencyDown):
                self._late = (model.version, self._clock() + CHALLENGER_PAUSE_S)
            if self._said != (model.version, error.code):
                log.warning("challenger %s gives no scores: %s", model.version, error)
            self._said = (model.version, error.code)
            return None
        if self._said is not None:
            log.info("challenger %s gives scores", model.version)
            self._said = None
        return Shadow(model.version, scores)

    def _scores(self, features: npt.NDArray[np.float32], pin: Pin) -> npt.NDArray[np.float32]:
        deadline = self._clock() + self._within_s
        columns = features[:, pin.columns]
        scores = np.empty(len(features), np.float32)
        for start in range(0, len(features), self._chunk_rows):
            chunk = slice(start, start + self._chunk_rows)
            left = deadline - self._clock()
            scores[chunk] = self._client.score(columns[chunk], pin.version, pin.feature_set_id, left)["score"]
        return scores


def without(n: int, reason: int) -> Scores:
    """No score for any of n payments, and why."""
    records = np.zeros(n, SCORED_RECORD)
    records["reasons"] = 255
    return Scores(records, np.full(n, reason, np.uint8), None)
