"""Answers by Idempotency-Key, and what is known already of a payment's id, in PostgreSQL."""

import json
from dataclasses import dataclass
from typing import Any

from api.postgres import Database

ABANDONED_S = 30  # after which a request that was claimed and not answered is worked on anew: its process died
KEPT = "24 hours"
NEWEST = 64  # payments of a user, by their own time: twice as many as an id is decided once within


@dataclass(frozen=True)
class Claim:
    """`ours`: this request does the work. Else `same`: the body is the one of before; `answer` once there is one."""

    ours: bool
    same: bool = True
    answer: dict[str, Any] | None = None


class AnswerRepository:
    """Writes; blocks; raises StoreUnavailable. Statements may run twice: the token tells who."""

    def __init__(self, writing: Database) -> None:
        self._writing = writing

    def claim(self, key: str, body_sha256: bytes, token: str) -> Claim:
        self._writing.rows(
            f"WITH gone AS (DELETE FROM idempotency_keys WHERE claimed_at < now() - interval '{KEPT}' RETURNING 1) "
            "SELECT count(*) FROM gone"
        )
        taken = self._writing.rows(
            f"""INSERT INTO idempotency_keys AS known (key, body_sha256, token) VALUES (%s, %s, %s)
            ON CONFLICT (key) DO UPDATE SET token = excluded.token, claimed_at = now()
            WHERE known.answer IS NULL AND known.body_sha256 = excluded.body_sha256
              AND (known.token = excluded.token OR known.claimed_at < now() - interval '{ABANDONED_S} s')
            RETURNING key""",
            [key, body_sha256, token],
        )
        if taken:
            return Claim(ours=True)
        known = self._writing.rows("SELECT body_sha256, answer FROM idempotency_keys WHERE key = %s", [key])
        if not known:  # given up by who had claimed it, just now
            return Claim(ours=False)
        return Claim(False, bytes(known[0]["body_sha256"]) == body_sha256, known[0]["answer"])

    def answer(self, key: str, token: str, answer: dict[str, Any]) -> None:
        self._writing.rows(
            "UPDATE idempotency_keys SET answer = %s WHERE key = %s AND token = %s RETURNING key",
            [json.dumps(answer), key, token],
        )

    def give_up(self, key: str, token: str) -> None:
        """Nothing came of it: the key may be used again."""
        self._writing.rows(
            "DELETE FROM idempotency_keys WHERE key = %s AND token = %s AND answer IS NULL RETURNING key", [key, token]
        )


class KnownPayments:
    """Reads; blocks; raises StoreUnavailable."""

    def __init__(self, reading: Database) -> None:
        self._reading = reading

    def of(self, payments: list[tuple[str, str]]) -> list[dict[str, Any]]:
        """Payments that were decided lately under these (transaction id, user id)."""
        return self._reading.rows(
            """SELECT d.transaction_id, d.user_id, d.amount, d.currency, d.event_time, d.merchant, d.location,
                d.payment_method
            FROM unnest(%s::text[], %s::text[]) AS given (transaction_id, user_id)
            CROSS JOIN LATERAL (SELECT * FROM decisions WHERE decisions.user_id = given.user_id
                ORDER BY event_time DESC LIMIT %s) d
            WHERE d.transaction_id = given.transaction_id AND d.outcome <> 'duplicate'""",
            [*map(list, zip(*payments, strict=True)), NEWEST],
        )
