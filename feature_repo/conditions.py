"""What keeps the system from its whole work: said by the job that knows it, in table `conditions`, and by switches.

A job says all it knows every few seconds, good for `HOLDS_S`; what ended it stays until it runs again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

HOLDS_S = 30
INDEXERS = "vigil-indexer"  # their consumer group: what it has not taken is behind, and without members none runs

# What it means where a service of the local stack is not there.
MEANS = {
    "kafka": "no payment comes in and none is decided",
    "postgres": "payments wait in Kafka, none is skipped; lists and details are not answered",
    "redis": "payments wait in Kafka, none is skipped; POST /detect is not answered",
    "elasticsearch": "search is not answered; payments are decided all the same",
    "mlflow": "nothing is trained or promoted; what is loaded serves on",
    "serving": "payments go to review without a score; POST /detect is not answered",
    "api": "no query is answered; payments are decided all the same",
    "stream": "payments wait in Kafka, none is skipped",
    "indexer": "search is behind; payments are decided all the same",
    "lifecycle": "requests and daily jobs wait",
    "windows": "payments over time are behind",
}

CURRENT = """
    SELECT code, component, cause, remedy, since FROM conditions WHERE holds_until > now()
    UNION ALL
    SELECT 'PAUSED', 'stream', 'no batch begins: ' || actor || ' paused the stream (' || reason || ')',
        'vigil switch resume --reason WHY', changed_at
    FROM switches WHERE name = 'intake' AND state = 'paused'
    UNION ALL
    SELECT 'RULES_ONLY', 'stream', 'payments get no score: ' || actor || ' set rules only (' || reason || ')',
        'vigil switch scored --reason WHY, then vigil backfill', changed_at
    FROM switches WHERE name = 'scoring' AND state = 'rules-only'
    ORDER BY since, code
"""
OVER = "DELETE FROM conditions WHERE job = %s AND code <> ALL(%s)"
HOLDS = """
    INSERT INTO conditions AS c (job, code, component, cause, remedy, since, holds_until)
    VALUES (%s, %s, %s, %s, %s, now(), CASE WHEN %s THEN 'infinity' ELSE now() + make_interval(secs => %s) END)
    ON CONFLICT (job, code) DO UPDATE SET component = excluded.component, cause = excluded.cause,
        remedy = excluded.remedy, holds_until = excluded.holds_until,
        since = CASE WHEN c.holds_until > now() THEN c.since ELSE excluded.since END
"""


@dataclass(frozen=True)
class Condition:
    """One thing that is not as it should be. `cause` holds no address and nothing of a payment: anybody may read it."""

    code: str
    component: str  # a service, as `vigil status` names it
    cause: str
    remedy: str


class Cursor(Protocol):
    """As any database driver of Python's has it."""

    def execute(self, statement: str, values: Sequence[Any]) -> object: ...


def report(cursor: Cursor, job: str, found: Sequence[Condition], *, ended: bool = False) -> None:
    """Make `found` what the job says, in the transaction of `cursor`; with `ended` until it speaks again."""
    cursor.execute(OVER, (job, [one.code for one in found]))
    for one in found:
        cursor.execute(HOLDS, (job, one.code, one.component, one.cause, one.remedy, ended, HOLDS_S))
