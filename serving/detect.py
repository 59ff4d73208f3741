"""One payment, scored now: parse, read its user's state, fold, score, decide.

Writes nothing: the stream is the only writer of decisions and states.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import features, kernel
from feature_repo.errors import IdConflict
from feature_repo.hashing import events_of
from feature_repo.parser import SAMPLE, ParseOptions, parse_one
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot, lookup_in, nobody
from feature_repo.state import States, empty
from feature_repo.transaction import rfc3339
from serving import scorer
from serving.artifact import Artifact
from serving.decision import APPROVE, DECISIONS, RULESET, decide
from serving.registry import Registry
from serving.wire import NO_REASON

CURRENCY_UNSUPPORTED = "CURRENCY_UNSUPPORTED"
SAMPLE_TIME_US = 2**51  # in 2041: after the sample's own time, which is all that is asked of it


class StateReader(Protocol):
    """The online store as detection needs it."""

    @property
    def ready(self) -> bool:
        """Whether `read` can answer."""

    def read(self, user_id: str, user_hash: np.uint64) -> States:
        """The user's state: one checked record that is the caller's to change; fresh for a new user.

        May block; raises StoreUnavailable, StateCorrupt, PlacementDiffers, GrowthUnfinished.
        """


class MerchantReader(Protocol):
    """The current snapshot of merchants as detection needs it."""

    def newest(self) -> Snapshot | None:
        """None where none was ever published. May block; raises DependencyDown, SnapshotUnreadable."""


class Detector:
    """Detection of one worker; safe to call from several threads."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        states: StateReader,
        merchants: MerchantReader,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._states = states
        self._merchants = merchants
        self._clock = clock
        self._options = ParseOptions.of(settings)

    def detect(self, payload: bytes) -> dict[str, Any]:
        """The decision on one payment as the answer of `POST /detect`.

        Raises BadRecord, IdConflict, ModelLoading, StoreUnavailable, DependencyDown, StateCorrupt.
        """
        now = self._clock()
        payment = parse_one(payload, int(now.timestamp() * 1e6), self._options)
        model = self._registry.held.get()
        user_id = payment.column("user_id")[0].as_py()
        merchants = self._merchants.newest()
        events = events_of(payment, lookup_in(merchants))
        vectors, flags = kernel.preview(self._states.read(user_id, events.user[0]), events)
        if flags[0] & kernel.CONFLICT:
            raise IdConflict
        currency = payment.column("currency")[0].as_py() or self._settings.currency
        if currency == self._settings.currency:
            verdict = scored(model, vectors[0], self._settings.reject_threshold)
        else:
            verdict = unscored(CURRENCY_UNSUPPORTED)  # amounts of several currencies are never compared
        return {
            **identity(payment, currency),
            **verdict,
            "ruleset_version": RULESET,
            "side_inputs": merchants.id if merchants else None,
            "seen_before": bool(flags[0] & kernel.DUPLICATE),
            "late": bool(flags[0] & kernel.LATE),
            "processed_at": rfc3339(now),
        }

    def warm(self) -> None:
        """Load or compile what `detect` runs: a new worker's first payment must not wait for it."""
        payment = parse_one(SAMPLE, SAMPLE_TIME_US)
        events = events_of(payment, nobody().look_up)
        kernel.preview(empty(events.user), events)


def scored(model: Artifact, vector: npt.NDArray[np.float32], reject_threshold: float | None) -> dict[str, Any]:
    """Score, decision and reasons; as in the stream, a payment that is simply approved needs no reasons."""
    columns = model.manifest.columns
    row = scorer.score(model, vector[None, features.positions(columns)])[0]
    is_anomaly, decision = decide(row["score"][None], np.ones(1, bool), model.manifest.threshold, reject_threshold)
    named = row["reasons"] != NO_REASON
    if decision[0] == APPROVE and not is_anomaly[0]:
        named[:] = False
    reasons = [features.REASONS[code].value for code in row["reasons"][named]]
    return {
        "outcome": "scored",
        "unscored_reason": None,
        "anomaly_score": shortest(row["score"]),
        "is_anomaly": bool(is_anomaly[0]),
        "anomaly_reason": reasons[0] if reasons else None,
        "anomaly_reasons": reasons,
        "reason_shares": [shortest(share) for share in row["shares"][named]],
        "decision": DECISIONS[decision[0]],
        "features": {name: shortest(value) for name, value in zip(features.NAMES, vector, strict=True)},
        "model_version": model.version,
        "feature_set_id": model.manifest.feature_set_id,
        "artifact_sha256": model.sha256,
    }


def unscored(reason: str) -> dict[str, Any]:
    """A payment without a score is reviewed, never approved."""
    _, decision = decide(np.zeros(1, np.float32), np.zeros(1, bool), 1.0)
    return {
        "outcome": "unscored",
        "unscored_reason": reason,
        "anomaly_score": None,
        "is_anomaly": None,
        "anomaly_reason": None,
        "anomaly_reasons": [],
        "reason_shares": [],
        "decision": DECISIONS[decision[0]],
        "features": None,
        "model_version": None,
        "feature_set_id": None,
        "artifact_sha256": None,
    }


def identity(payment: pa.RecordBatch, currency: str) -> dict[str, Any]:
    """Which payment the answer is about, with the times and text as they were understood."""
    return {
        "transaction_id": payment.column("transaction_id")[0].as_py(),
        "user_id": payment.column("user_id")[0].as_py(),
        "currency": currency,
        "event_time": rfc3339(payment.column("event_time")[0].as_py()),
    }


def shortest(value: np.float32) -> float:
    """The shortest decimal that is this float32: what PostgreSQL prints for the same `real`."""
    return float(str(np.float32(value)))
