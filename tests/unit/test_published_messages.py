"""What the stream publishes fulfils its contracts, for every payment and every bad input of the table."""

import json

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.features import REASONS, WIDTH
from feature_repo.parser import Parsed, parse
from feature_repo.rejects import KEPT_BYTES
from streaming.decisions import DUPLICATE, NOT_UNSCORED, SCORED, UNSCORED, DeadLetter, Decisions
from streaming.documents import SCORE_DECIMALS, alert_rows, dead_letter_message, decision_messages
from streaming.numerals import decimals
from streaming.repair import decision_message
from tests.cases.bad_inputs import BAD, BROKER_TIME_US, GOOD, Case
from tests.unit.test_contracts import validator


def parsed(cases: tuple[Case, ...]) -> Parsed:
    values = pa.array([case.payload for case in cases], pa.binary())
    return parse(values, np.full(len(cases), BROKER_TIME_US))


def decided(payments: pa.RecordBatch) -> Decisions:
    """One of each outcome in turn; every other scored one is an anomaly with 0 to 4 reasons."""
    n = payments.num_rows
    row = np.arange(n)
    outcome = np.choose(row % 4, [SCORED, UNSCORED, DUPLICATE, SCORED]).astype(np.uint8)
    reasons = np.where(np.arange(4) < (row % 5)[:, None], (row[:, None] + np.arange(4)) % len(REASONS), 255)
    anomaly = (row % 8 < 4) & (outcome == SCORED)
    return Decisions(
        topic="transactions",
        partition=3,
        payments=payments,
        offsets=row + 10**12,
        ingested=np.full(n, BROKER_TIME_US),
        processed=BROKER_TIME_US + 431_002,
        outcome=outcome,
        unscored=np.where(outcome == UNSCORED, row % 3, NOT_UNSCORED).astype(np.uint8),
        scores=np.linspace(0, 1, n, dtype=np.float32),
        is_anomaly=anomaly,
        decision=np.where(anomaly | (outcome == UNSCORED), 1, 0).astype(np.uint8),
        reasons=np.where(anomaly[:, None], reasons, 255).astype(np.uint8),
        shares=np.full((n, 4), 0.25, np.float32),
        features=np.zeros((n, WIDTH), np.float32),
        late=row % 2 == 0,
        model_version="3",
        feature_set_id="fs_0123456789abcdef",
        ruleset="v0",
        side_inputs="ms_0123456789abcdef",
        currency="USD",
        shadow=None,
    )


def test_every_decision_fulfils_its_contract_and_says_what_was_paid() -> None:
    decisions = decided(parsed(GOOD).payments)
    messages = decision_messages(decisions)
    assert len(messages) == len(GOOD)
    contract = validator("decisions")
    for message, payment in zip(messages, decisions.payments.to_pylist(), strict=True):
        document = json.loads(message["value"])
        contract.validate(document)
        assert list(document)[:3] == ["decision_id", "revision", "ingested_at"]
        assert document["decision_id"] == message["key"].decode()
        said = ("transaction_id", "user_id", "merchant", "location", "payment_method", "currency")
        assert {name: document[name] for name in said} == {name: payment[name] for name in said}
        assert document["amount"] == pytest.approx(payment["amount"], rel=1e-15)


def test_every_alert_fulfils_its_contract() -> None:
    decisions = decided(parsed(GOOD).payments)
    messages = decision_messages(decisions)
    alerts = [messages[row] for row in alert_rows(decisions)]
    assert len(alerts) > 5
    for alert in alerts:
        validator("alerts").validate(json.loads(alert["value"]))


def test_every_dead_letter_fulfils_its_contract() -> None:
    rejects = parsed(BAD).rejects
    assert len(rejects.rows) == len(BAD)
    contract = validator("transactions.dlq")
    for at, case in enumerate(BAD):
        letter = DeadLetter(
            offset=at,
            code=rejects.codes[at],
            detail=rejects.details[at],
            payload=rejects.payloads[at],
            size=int(rejects.sizes[at]),
            sha256=rejects.sha256[at],
            ingested=BROKER_TIME_US,
        )
        document = json.loads(dead_letter_message("transactions", 3, BROKER_TIME_US, letter)["value"])
        contract.validate(document)
        assert (document["code"], document["payload_bytes"]) == (case.code, len(case.payload or b""))
        assert len(document["payload"]) <= KEPT_BYTES


def test_a_score_published_from_postgres_has_the_digits_it_was_published_with() -> None:
    scores = np.array([0.2882725, 0.4784745, 0.0, 1.0], "<f4")
    column = decimals(scores, SCORE_DECIMALS)
    for row, score in enumerate(scores):
        start, length = int(column.starts[row]), int(column.lengths[row])
        published = json.loads(column.data[start : start + length].tobytes())
        of_the_driver = float(str(score))  # a real's shortest text
        place = {"kafka_topic": "t", "kafka_partition": 0, "kafka_offset": row}
        again = json.loads(decision_message({**place, "anomaly_score": of_the_driver})["value"])
        assert again["anomaly_score"] == published
