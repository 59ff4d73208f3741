"""Compiles what a task runs, or loads it from numba's cache on disk, before a payment has to wait for it."""

import numpy as np

from feature_repo import kernel, parser, snapshot, state
from feature_repo.features import WIDTH
from feature_repo.hashing import events_of, partitions_of
from serving.decision import APPROVE, RULESET
from serving.wire import MAX_REASONS, NO_REASON
from streaming import task
from streaming.decisions import NOT_UNSCORED, SCORED, Decisions
from streaming.documents import decision_messages
from streaming.rows import decision_copy

__all__ = ["task", "warm"]  # a worker runs `task`: importing it is part of being warm


def warm() -> None:
    """One payment through every compiled function of a task. Seconds when the cache is cold."""
    parser.warm()
    payment = parser.parse_one(parser.SAMPLE, 0, parser.ParseOptions(future_tolerance_us=2**62))
    events = events_of(payment, snapshot.nobody().look_up)
    states = state.empty(events.user)
    kernel.fold(states, np.zeros(1, np.int64), events, 0, np.zeros(1, np.int64))
    state.seal(states)
    state.check(states, events.user)
    partitions_of(payment.column("user_id"), 1)
    decisions = Decisions(
        topic="",
        partition=0,
        payments=payment,
        offsets=np.zeros(1, np.int64),
        ingested=np.zeros(1, np.int64),
        processed=0,
        outcome=np.full(1, SCORED, np.uint8),
        unscored=np.full(1, NOT_UNSCORED, np.uint8),
        scores=np.zeros(1, np.float32),
        is_anomaly=np.zeros(1, np.bool_),
        decision=np.full(1, APPROVE, np.uint8),
        reasons=np.full((1, MAX_REASONS), NO_REASON, np.uint8),
        shares=np.zeros((1, MAX_REASONS), np.float32),
        features=np.zeros((1, WIDTH), np.float32),
        late=np.zeros(1, np.bool_),
        model_version=None,
        feature_set_id=None,
        ruleset=RULESET,
        side_inputs=None,
        currency="",
        shadow=None,
    )
    decision_copy(decisions)
    decision_messages(decisions)
