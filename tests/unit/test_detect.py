"""One payment decided now: what the answer says and what never happens."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import features, kernel
from feature_repo.errors import (
    BadRecord,
    IdConflict,
    ModelLoading,
    SnapshotUnreadable,
    StoreUnavailable,
)
from feature_repo.hashing import events_of
from feature_repo.parser import parse_one
from feature_repo.snapshot import Snapshot, no_snapshot
from serving.decision import RULESET
from serving.detect import Detector
from serving.registry import Registry
from tests.cases.model_service import FolderSource, MemoryStates, settings_for
from tests.unit.streams import snapshot_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAYMENT = {
    "transaction_id": "txn_1",
    "user_id": "user_1",
    "amount": 12.5,
    "timestamp": "2026-03-01T11:59:00Z",
    "merchant": "Corner Café",
    "location": "New York",
    "payment_method": "credit_card",
}

SNAPSHOT = snapshot_of({"Corner Café": (25.0, 90.0, 0.5, 0.25)})

Detect = Callable[..., dict[str, Any]]


class Merchants:
    """A reader of one snapshot; `lost` is a snapshot that is named and cannot be read."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = SNAPSHOT
        self.lost = False

    def newest(self) -> Snapshot | None:
        if self.lost:
            raise SnapshotUnreadable("here", SNAPSHOT.id, "switched off by the test")
        return self.snapshot


@pytest.fixture
def merchants() -> Merchants:
    return Merchants()


@pytest.fixture
def states() -> MemoryStates:
    return MemoryStates()


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    source = FolderSource(tmp_path)
    source.publish("7", scale=0.01)
    return source


@pytest.fixture
def registry(source: FolderSource, tmp_path: Path) -> Registry:
    registry = Registry(source, tmp_path / "cache")
    registry.refresh()
    return registry


@pytest.fixture
def detect(states: MemoryStates, merchants: Merchants, registry: Registry, tmp_path: Path) -> Detect:
    detector = Detector(settings_for(tmp_path), registry, states, merchants, clock=lambda: NOW)

    def call(**changes: Any) -> dict[str, Any]:
        return detector.detect(json.dumps({**PAYMENT, **changes}).encode())

    return call


def payments(count: int, **changes: Any) -> pa.RecordBatch:
    """A user's ordinary past: one small payment an hour."""
    rows = [
        parse_one(
            json.dumps(
                {
                    **PAYMENT,
                    "transaction_id": f"past_{i}",
                    "timestamp": f"2026-02-28T{i % 24:02d}:30:00Z",
                    **changes,
                }
            ).encode(),
            int(NOW.timestamp() * 1e6),
        )
        for i in range(count)
    ]
    return pa.Table.from_batches(rows).combine_chunks().to_batches()[0]


def live_through(states: MemoryStates, past: pa.RecordBatch) -> None:
    """Fold payments into the user's stored state, as the stream does."""
    events = events_of(past, no_snapshot)
    record = states.read("user_1", events.user[0])
    kernel.fold(record, np.zeros(len(past), np.int64), events, -1, np.arange(len(past)))
    states.records[int(events.user[0])] = record


def test_the_answer_names_payment_decision_and_model(detect: Detect, registry: Registry) -> None:
    answer = detect()
    model = registry.held.get()
    assert answer["transaction_id"] == "txn_1"
    assert answer["event_time"] == "2026-03-01T11:59:00.000000Z"
    assert answer["processed_at"] == "2026-03-01T12:00:00.000000Z"
    assert answer["outcome"] == "scored"
    assert 0 <= answer["anomaly_score"] < model.manifest.threshold
    assert (answer["is_anomaly"], answer["decision"]) == (False, "approve")
    assert (answer["anomaly_reason"], answer["anomaly_reasons"]) == (None, [])
    assert answer["model_version"] == "7"
    assert answer["feature_set_id"] == model.manifest.feature_set_id
    assert answer["artifact_sha256"] == model.sha256
    assert answer["ruleset_version"] == RULESET
    assert list(answer["features"]) == list(features.NAMES)
    json.dumps(answer, allow_nan=False)


def test_an_anomaly_is_reviewed_and_its_strongest_reason_comes_first(
    detect: Detect, source: FolderSource, registry: Registry, states: MemoryStates
) -> None:
    source.publish("8", scale=2.0)
    registry.refresh()
    live_through(states, payments(10))
    answer = detect(amount=50_000, merchant="Casino")
    assert (answer["is_anomaly"], answer["decision"], answer["model_version"]) == (True, "review", "8")
    assert answer["anomaly_reason"] == answer["anomaly_reasons"][0] == "unusual_amount_for_user"
    assert answer["reason_shares"] == sorted(answer["reason_shares"], reverse=True)
    assert len(answer["reason_shares"]) == len(answer["anomaly_reasons"]) <= 4


def test_features_are_those_the_stream_would_compute(detect: Detect, states: MemoryStates) -> None:
    past = payments(10)
    live_through(states, past)
    answer = detect(amount=99.99)
    now = parse_one(json.dumps({**PAYMENT, "amount": 99.99}).encode(), int(NOW.timestamp() * 1e6))
    events = events_of(pa.Table.from_batches([past, now]).combine_chunks().to_batches()[0], SNAPSHOT.look_up)
    fresh = MemoryStates().read("user_1", events.user[0])
    vectors, _ = kernel.fold(fresh, np.zeros(11, np.int64), events, -1, np.arange(11))
    assert list(answer["features"].values()) == [float(str(value)) for value in vectors[-1]]


def test_detecting_changes_no_state(detect: Detect, states: MemoryStates) -> None:
    live_through(states, payments(3))
    before = {user: record.tobytes() for user, record in states.records.items()}
    assert detect() == detect()
    assert {user: record.tobytes() for user, record in states.records.items()} == before


def test_the_same_payment_again_is_scored_again(detect: Detect, states: MemoryStates) -> None:
    live_through(states, payments(3))
    live_through(states, parse_one(json.dumps(PAYMENT).encode(), int(NOW.timestamp() * 1e6)))
    answer = detect()
    assert answer["seen_before"] is True
    assert answer["anomaly_score"] is not None
    assert detect(transaction_id="txn_2")["seen_before"] is False


def test_the_same_id_with_another_payload_is_a_conflict(detect: Detect, states: MemoryStates) -> None:
    live_through(states, payments(1))
    with pytest.raises(IdConflict):
        detect(transaction_id="past_0", amount=13.0, timestamp="2026-02-28T00:30:00Z")


def test_a_payment_behind_the_users_newest_is_late(detect: Detect, states: MemoryStates) -> None:
    live_through(states, payments(24))
    assert detect(timestamp="2026-02-27T10:00:00Z")["late"] is True
    assert detect()["late"] is False


def test_another_currency_goes_to_review_without_a_score(detect: Detect) -> None:
    answer = detect(currency="EUR")
    assert answer["currency"] == "EUR"
    assert (answer["outcome"], answer["unscored_reason"]) == ("unscored", "CURRENCY_UNSUPPORTED")
    assert (answer["anomaly_score"], answer["is_anomaly"], answer["model_version"]) == (None, None, None)
    assert answer["decision"] == "review"


def test_the_answer_has_the_same_keys_with_and_without_a_score(detect: Detect) -> None:
    assert detect().keys() == detect(currency="EUR").keys()


def test_without_the_state_there_is_no_score(detect: Detect, states: MemoryStates) -> None:
    states.down = True
    with pytest.raises(StoreUnavailable):
        detect()


def test_the_answer_names_the_snapshot_its_merchant_was_looked_up_in(detect: Detect, merchants: Merchants) -> None:
    answer = detect()
    assert answer["side_inputs"] == SNAPSHOT.id
    assert answer["features"]["merchant_risk_30d"] == 0.25
    assert detect(merchant="elsewhere")["features"]["merchant_risk_30d"] == 0
    merchants.snapshot = None
    answer = detect()
    assert answer["side_inputs"] is None
    assert answer["features"]["merchant_risk_30d"] == 0


def test_without_the_snapshot_that_should_be_there_is_no_score(detect: Detect, merchants: Merchants) -> None:
    merchants.lost = True
    with pytest.raises(SnapshotUnreadable):
        detect()


def test_without_a_model_there_is_no_decision(states: MemoryStates, tmp_path: Path) -> None:
    empty = Registry(FolderSource(tmp_path), tmp_path / "other")
    detector = Detector(settings_for(tmp_path), empty, states, Merchants(), clock=lambda: NOW)
    with pytest.raises(ModelLoading):
        detector.detect(json.dumps(PAYMENT).encode())


def test_a_bad_payment_is_refused_before_anything_is_read(detect: Detect, states: MemoryStates) -> None:
    states.down = True
    with pytest.raises(BadRecord) as caught:
        detect(amount=-1)
    assert caught.value.code == "RANGE"
