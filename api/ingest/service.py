"""Puts payments on the topic, once for each Idempotency-Key."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from api.errors import IdempotencyInProgress, IdempotencyKeyReused, PaymentsRefused
from api.ingest.repository import AnswerRepository, KnownPayments
from api.ingest.schemas import Accepted, Taken
from feature_repo import parser
from feature_repo.codes import Code
from feature_repo.errors import BadRecord, BatchTooLarge, IdConflict, VigilError
from feature_repo.recorder import Recorder
from feature_repo.settings import Settings

MAX_PAYMENTS = 1_000  # of one request
FINDINGS = 20  # named in a refusal
COMPARED = ("amount", "currency", "event_time", "merchant", "location", "payment_method")


class IngestService:
    """Blocks."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        answers: AnswerRepository,
        known: KnownPayments,
        now: Callable[[], datetime],
    ) -> None:
        self._topic = settings.topic
        self._currency = settings.currency
        self._recorder = recorder
        self._answers = answers
        self._known = known
        self._now = now
        self._options = parser.ParseOptions(
            currency=settings.currency,
            pan_in_ids=settings.pan_in_ids,
            future_tolerance_us=settings.future_tolerance_s * 1_000_000,
        )

    def take(self, body: bytes, lines: bool, key: str | None) -> Accepted:
        """One payment, or one a line. All are on the topic, or, where one is not acceptable, none is.

        Raises BadRecord or IdConflict (one), PaymentsRefused (lines), BatchTooLarge, IdempotencyKeyReused,
        IdempotencyInProgress, DependencyDown (some may have arrived).
        """
        payloads = [line for line in body.splitlines() if line.strip()] if lines else [body]
        if len(payloads) > MAX_PAYMENTS:
            raise BatchTooLarge(len(payloads), MAX_PAYMENTS)
        payments = self._parsed(payloads, lines)
        if key is None:
            return self._produced(payloads, payments, lines)
        token, digest = str(uuid.uuid4()), hashlib.sha256(b"%d" % lines + body).digest()
        claim = self._answers.claim(key, digest, token)
        if not claim.same:
            raise IdempotencyKeyReused
        if claim.answer is not None:
            return Accepted(**claim.answer)
        if not claim.ours:
            raise IdempotencyInProgress
        try:
            accepted = self._produced(payloads, payments, lines)
        except VigilError:
            self._answers.give_up(key, token)
            raise
        self._answers.answer(key, token, accepted.model_dump())
        return accepted

    def _parsed(self, payloads: list[bytes], lines: bool) -> pa.RecordBatch:
        """Raises BadRecord, PaymentsRefused."""
        now_us = int(self._now().timestamp() * 1e6)
        if not lines:
            return parser.parse_one(payloads[0], now_us, self._options)
        if not payloads:
            raise BadRecord(Code.EMPTY.value, Code.EMPTY.sentence, status=Code.EMPTY.status)
        times = np.full(len(payloads), now_us, np.int64)
        parsed = parser.parse(pa.array(payloads, pa.binary()), times, self._options)
        rejects = parsed.rejects
        if len(rejects.rows):
            first = list(zip(rejects.rows.tolist(), rejects.codes, rejects.fields, strict=True))[:FINDINGS]
            raise PaymentsRefused(Code(first[0][1]).status, first, len(rejects.rows))
        return parsed.payments

    def _produced(self, payloads: list[bytes], payments: pa.RecordBatch, lines: bool) -> Accepted:
        """Raises IdConflict (one), PaymentsRefused (lines), DependencyDown."""
        rows = payments.to_pylist()
        conflicts = self._conflicts(rows)
        if conflicts and not lines:
            raise IdConflict
        if conflicts:
            raise PaymentsRefused(Code.ID_CONFLICT.status, conflicts[:FINDINGS], len(conflicts))
        places = self._recorder.record(
            self._topic, [(row["user_id"], payload) for row, payload in zip(rows, payloads, strict=True)]
        )
        items = [
            Taken(transaction_id=row["transaction_id"], decision_id=place)
            for row, place in zip(rows, places, strict=True)
        ]
        return Accepted(accepted=len(items), items=items)

    def _conflicts(self, rows: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
        """Ids used for another payment. The stream has the last word; what is plain already is said at once."""
        seen: dict[tuple[str, str], tuple[Any, ...]] = {
            (known["transaction_id"], known["user_id"]): tuple(known[name] for name in COMPARED)
            for known in self._known.of([(row["transaction_id"], row["user_id"]) for row in rows])
        }
        conflicts = []
        for line, row in enumerate(rows):
            row = {**row, "amount": Decimal(repr(row["amount"])), "currency": row["currency"] or self._currency}
            payment = tuple(row[name] for name in COMPARED)
            if seen.setdefault((row["transaction_id"], row["user_id"]), payment) != payment:
                conflicts.append((line, Code.ID_CONFLICT.value, "transaction_id"))
        return conflicts
