"""What the stores can disagree about: each with the component to look at and what to do."""

from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5  # of each finding, told by name

_RESTORE = "restore PostgreSQL from a backup; the payments topic holds the records for as long as it retains them"
_LEDGER = "nothing but the stream may write the ledger: stop it, find who did, restore PostgreSQL from a backup"

# Code -> component, what is so (examples follow), remedy.
CODES: dict[str, tuple[str, str, str]] = {
    "OUTCOME_MISSING": ("PostgreSQL", "records below the ledger's position have no outcome", _RESTORE),
    "OUTCOME_TWICE": ("PostgreSQL", "records have more than one outcome", _RESTORE),
    "RECORD_MISSING": ("Kafka", "outcomes lie where Kafka holds no record", "was the topic made anew? vigil reset"),
    "LOG_BEHIND": ("Kafka", "the ledger is ahead of the topic's end", "was the topic made anew? vigil reset"),
    "LEDGER_HOLE": ("ledger", "outcomes or records lie in no range of the ledger", _LEDGER),
    "LEDGER_OVERLAP": ("ledger", "ranges begin before an earlier one ends", _LEDGER),
    "LEDGER_BACKWARD": ("ledger", "ranges were committed before others that lie below them", _LEDGER),
    "LEDGER_SUM": ("ledger", "ranges count other outcomes than the tables hold", _RESTORE),
    "LEDGER_MISPLACED": ("ledger", "the ledger's position is not where its last range ends", _LEDGER),
    "VERSIONS_MIXED": ("ledger", "decisions name another model version than their range", _LEDGER),
    "DECIDED_TWICE": (
        "stream", "a transaction id was decided twice within 32 payments of its user",
        "was the user's state lost in between? vigil parity tells",
    ),
    "UNPUBLISHED": ("stream", "ranges stay unpublished", "vigil restart stream: it publishes what was left behind"),
    "INDEXER_BEHIND": ("indexer", "decisions wait to be indexed, search was not compared", "vigil logs indexer"),
    "DOCUMENT_MISSING": ("Elasticsearch", "decisions have no document and are not parked", "vigil reindex"),
    "DOCUMENT_SURPLUS": ("Elasticsearch", "documents have no decision", "vigil reindex --fresh"),
    "DOCUMENT_OUTDATED": ("Elasticsearch", "documents hold an earlier revision", "vigil reindex"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One clear error; `count` is how many of the kind were seen, `cause` names some."""

    code: str
    component: str
    cause: str
    remedy: str
    count: int

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Findings:
    """Collects by code; examples in the order they were met."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, code: str, *examples: str, count: int | None = None) -> None:
        """`count` where there are more than are named; nothing at all where it is 0."""
        count = len(examples) if count is None else count
        if count:
            self._counts[code] = self._counts.get(code, 0) + count
            self._examples.setdefault(code, []).extend(examples[:EXAMPLES])

    def all(self) -> list[Finding]:
        """In the order of CODES."""
        found = []
        for code, (component, cause, remedy) in CODES.items():
            if code in self._counts:
                named = ", ".join(self._examples[code][:EXAMPLES])
                more = ", …" if self._counts[code] > EXAMPLES else ""
                found.append(Finding(code, component, f"{cause}: {named}{more}", remedy, self._counts[code]))
        return found


@dataclass
class Reconciled:
    """What one look came to. Counts are of what was looked at: the window, or what came since the look before."""

    topic: str
    offsets: int = 0  # decided ones
    records: int = 0  # of those, still in Kafka
    gaps: int = 0  # offsets Kafka holds no record at (transaction markers, compaction): legal
    decisions: int = 0
    dead_letters: int = 0
    documents: int = 0
    parked: dict[str, int] = field(default_factory=dict)  # all that are, by Elasticsearch's reason
    lag: int = 0  # records that wait to be decided
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "findings": [finding.as_json() for finding in self.findings]}
