"""The invariants of the stream, I1 to I8, held against what was found in the stores. Pure: see `evidence` for reading.

I1 every record has exactly one outcome, the one its kind must get · I2 an id is decided once within a user's last 32
payments, an alert is one · I3 one model and one rule set per range, stored features give the stored score and decision,
and are what the log gives · I4 nothing is filled in silently · I5 all is decided, published and indexed or parked ·
I6 failures say what they are · I7 card numbers and secrets are nowhere · I8 ranges neither overlap nor run backward
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.chaos.load import Kind, Place

HORIZON = 32  # payments of a user within which an id is decided once
TOLERANCE = 1e-5  # of a score that is computed again
PUBLISHED_TOLERANCE = 1e-6  # six decimals are published
CLOCK_S = 1.0  # PostgreSQL's clock may be set back by so much between two commits
SHOWN = 5  # of each kind of violation
UNSCORED = ("MODEL_DOWN", "FEATURE_SET_MISMATCH", "CURRENCY_UNSUPPORTED")

DECIDED = frozenset({"scored", "unscored"})
EXPECTED: dict[Kind, frozenset[str]] = {
    Kind.GOOD: DECIDED, Kind.LATE: DECIDED, Kind.COMMITTED: DECIDED,
    Kind.STRANGER: DECIDED, Kind.UNKEYED: DECIDED,
    Kind.DUPLICATE: frozenset({"duplicate"}), Kind.CONFLICT: frozenset({"ID_CONFLICT"}),
    Kind.FUTURE: frozenset({"TIME_FUTURE"}), Kind.BROKEN: frozenset({"NOT_JSON"}),
    Kind.BROKEN_CARD: frozenset({"NOT_JSON"}), Kind.CARD: frozenset({"PAN_DETECTED"}), Kind.ABORTED: frozenset(),
}  # fmt: skip
ELSEWHERE = (Kind.STRANGER, Kind.UNKEYED)  # put in their place first, where they do not lie there by chance


class Record(NamedTuple):
    """A record of the payments topic as any JSON reader sees it; None for what it does not say."""

    transaction_id: str | None
    origin: str | None  # where the stream put it in place from


class Row(NamedTuple):
    """A row of `decisions`."""

    partition: int
    offset: int
    revision: int
    transaction_id: str
    user_id: str
    event_us: int
    outcome: str
    unscored_reason: str | None
    score: float | None
    is_anomaly: bool | None
    decision: str | None
    model_version: str | None
    ruleset: str
    features: bytes | None
    late: bool


class Letter(NamedTuple):
    """A row of `dead_letters`."""

    partition: int
    offset: int
    code: str
    detail: str


class Range(NamedTuple):
    """A row of `ledger_ranges`; `committed_at` in seconds since 1970."""

    partition: int
    first: int
    until: int
    records: int
    model_version: str | None
    ruleset: str
    names: tuple[str, ...]
    committed_at: float
    published: bool


class Published(NamedTuple):
    """What a message of topic `decisions` or `alerts` says."""

    outcome: str
    decision: str | None
    score: float | None
    model_version: str | None


@dataclass(frozen=True)
class Model:
    """A version as its artefact has it: float32[n, columns] -> float32[n]."""

    columns: tuple[str, ...]
    threshold: float
    score: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


Revision = tuple[str, int]  # id of a decision, revision


@dataclass
class Evidence:
    """All that was found. `sent` is what producers know of their records, `loose` those that may have been put in their
    place as the topic was grown meanwhile; `mismatches` are decisions whose features
    the log does not give; `leaks` and `complaints` say where something was found that must be nowhere."""

    topic: str
    log: dict[Place, Record] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    committed: dict[int, int] = field(default_factory=dict)
    decisions: dict[Revision, set[Published]] = field(default_factory=dict)
    alerts: dict[Revision, set[Published]] = field(default_factory=dict)
    buried: set[str] = field(default_factory=set)  # ids on topic transactions.dlq
    documents: dict[str, int] = field(default_factory=dict)  # id: revision
    parked: dict[Revision, str] = field(default_factory=dict)  # why
    models: dict[str, Model] = field(default_factory=dict)
    sent: dict[Place, Kind] = field(default_factory=dict)
    loose: set[Place] = field(default_factory=set)
    mismatches: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def id(self, partition: int, offset: int) -> str:
        return f"{self.topic}-{partition}-{offset}"

    @property
    def live(self) -> list[Row]:
        """As decided by the stream, in the order of the log."""
        return sorted((row for row in self.rows if row.revision == 1), key=lambda row: row[:2])


@dataclass(frozen=True)
class Violation:
    """How often an invariant does not hold in one way, with examples."""

    invariant: str
    what: str
    count: int
    examples: tuple[str, ...]


Found = Iterator[tuple[str, str]]  # what, example


def check(evidence: Evidence) -> list[Violation]:
    """Every violation; none where all holds."""
    violations: list[Violation] = []
    for name, look in INVARIANTS.items():
        examples: dict[str, list[str]] = defaultdict(list)
        for what, example in look(evidence):
            examples[what].append(example)
        violations += [Violation(name, what, len(some), tuple(some[:SHOWN])) for what, some in examples.items()]
    return violations


# ---- I1


def one_outcome(e: Evidence) -> Found:
    outcomes: dict[Place, list[str]] = defaultdict(list)
    for row in e.live:
        outcomes[row[:2]].append(row.outcome)
    for letter in e.letters:
        outcomes[letter[:2]].append(letter.code)
    for place in e.log.keys() - outcomes.keys():
        yield "a record has no outcome", e.id(*place)
    for place in outcomes.keys() - e.log.keys():
        yield "an outcome has no record", f"{e.id(*place)} {outcomes[place]}"
    for place, found in outcomes.items():
        if len(found) > 1:
            yield "an offset has several outcomes", f"{e.id(*place)} {found}"
    came_to = _follower(e, outcomes)
    for place, kind in e.sent.items():
        final = came_to(place)
        moved = outcomes.get(place) == ["REKEYED"] and not (kind in ELSEWHERE or place in e.loose)
        if moved or (final and not final & EXPECTED[kind]):
            yield f"a {kind} record came to another outcome", f"{e.id(*place)} {sorted(final)}"
    yield from _nothing_is_lost(e)


def _follower(e: Evidence, outcomes: dict[Place, list[str]]) -> Callable[[Place], set[str]]:
    """What a record came to in the end: of one that was put in its place, what the copies there came to."""
    copies: dict[str, list[Place]] = defaultdict(list)
    for place, record in e.log.items():
        if record.origin is not None:
            copies[record.origin].append(place)

    def came_to(place: Place) -> set[str]:
        found = set(outcomes.get(place, ()))
        if "REKEYED" in found:
            found = found - {"REKEYED"} | {one for copy in copies[e.id(*place)] for one in came_to(copy)}
        return found

    return came_to


def _nothing_is_lost(e: Evidence) -> Found:
    decided = {row.transaction_id for row in e.live if row.outcome in DECIDED}
    for place, kind in e.sent.items():
        record = e.log.get(place)
        if kind is Kind.ABORTED:
            continue
        if record is None:
            yield "a confirmed record is gone", e.id(*place)
        elif EXPECTED[kind] & DECIDED and record.transaction_id not in decided:
            yield "a payment was never decided", f"{e.id(*place)} {record.transaction_id}"
    copies = {record.origin for record in e.log.values()}
    for letter in e.letters:
        if letter.code == "REKEYED" and e.id(*letter[:2]) not in copies:
            yield "a re-keyed payment was not produced again", e.id(*letter[:2])


# ---- I2


def decided_once(e: Evidence) -> Found:
    recent: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=HORIZON))
    known: set[tuple[str, str]] = set()
    for row in _as_decided(e):
        if row.outcome == "duplicate":
            if (row.user_id, row.transaction_id) not in known:
                yield "a duplicate repeats nothing", e.id(*row[:2])
            continue
        if row.transaction_id in recent[row.user_id]:
            yield "an id was decided twice", f"{e.id(*row[:2])} {row.transaction_id}"
        recent[row.user_id].append(row.transaction_id)
        known.add((row.user_id, row.transaction_id))
    for revision, count in Counter((row[:2], row.revision) for row in e.rows).items():
        if count > 1:
            yield "a revision was written twice", str(revision)
    yield from _published(e, "decision", e.decisions, e.rows)
    yield from _published(e, "alert", e.alerts, [row for row in e.rows if row.outcome == "scored" and row.is_anomaly])
    letters = {e.id(*letter[:2]) for letter in e.letters if letter.code != "REKEYED"}
    for missing in letters - e.buried:
        yield "a dead letter was not published", missing
    for surplus in e.buried - letters:
        yield "a published dead letter has no row", surplus


def _as_decided(e: Evidence) -> list[Row]:
    """Each user's payments as they were decided, out of several partitions where the topic was grown meanwhile."""
    find = _finder(e.ranges)

    def key(row: Row) -> tuple[float, int, int]:
        place = find(row.partition, row.offset)
        return (place.committed_at if place else 0.0, row.partition, row.offset)

    return sorted(e.live, key=key)


def _published(e: Evidence, name: str, messages: dict[Revision, set[Published]], rows: Sequence[Row]) -> Found:
    expected = {(e.id(*row[:2]), row.revision): row for row in rows}
    for revision in expected.keys() - messages.keys():
        yield f"a {name} was not published", str(revision)
    for revision in messages.keys() - expected.keys():
        yield f"a published {name} has no row", str(revision)
    for revision, contents in messages.items():
        if len(contents) > 1:
            yield f"a {name} was published with several contents", str(revision)
        row = expected.get(revision)
        if row is not None and not all(_says(content, row) for content in contents):
            yield f"a published {name} is not what was decided", str(revision)


def _says(message: Published, row: Row) -> bool:
    same = (message.outcome, message.decision, message.model_version) == (row.outcome, row.decision, row.model_version)
    if message.score is None or row.score is None:
        return same and message.score is row.score
    return same and abs(message.score - row.score) <= PUBLISHED_TOLERANCE


# ---- I3


def one_model(e: Evidence) -> Found:
    find = _finder(e.ranges)
    batches: dict[tuple[str, tuple[str, ...]], list[Row]] = defaultdict(list)
    for row in e.rows:
        place = find(row.partition, row.offset)
        if place is None:
            yield "a decision lies in no range", e.id(*row[:2])
            continue
        if row.revision == 1:
            if row.model_version is not None and row.model_version != place.model_version:
                yield "a range holds another model's decision", f"{e.id(*row[:2])} {row.model_version}"
            if row.ruleset != place.ruleset:
                yield "a range holds another rule set's decision", f"{e.id(*row[:2])} {row.ruleset}"
        if row.outcome == "scored" and row.model_version is not None and row.features is not None:
            batches[row.model_version, place.names].append(row)
    for (version, names), rows in batches.items():
        if version not in e.models:
            yield "a version that decided is in no registry", version
        else:
            yield from _scored_again(e, e.models[version], names, rows)
    for mismatch in e.mismatches:
        yield "stored features are not what the log gives", mismatch


def _scored_again(e: Evidence, model: Model, names: tuple[str, ...], rows: list[Row]) -> Found:
    stored = np.array([np.frombuffer(row.features or b"", "<f4") for row in rows])
    scores = model.score(stored[:, [names.index(column) for column in model.columns]])
    for row, score in zip(rows, scores.tolist(), strict=True):
        if row.score is None or not abs(score - row.score) <= TOLERANCE:
            yield "stored features give another score", f"{e.id(*row[:2])} {row.score} {score}"
        anomaly = row.score is not None and np.float32(row.score) >= np.float32(model.threshold)
        if (row.is_anomaly, row.decision) != (anomaly, "review" if anomaly else "approve"):
            yield "the score says another decision", f"{e.id(*row[:2])} {row.score} {row.decision}"


def _finder(ranges: Iterable[Range]) -> Callable[[int, int], Range | None]:
    """The last range of a partition that begins at or before an offset, where it reaches so far."""
    by_partition: dict[int, list[Range]] = defaultdict(list)
    for one in sorted(ranges):
        by_partition[one.partition].append(one)
    starts = {partition: np.array([one.first for one in some]) for partition, some in by_partition.items()}

    def find(partition: int, offset: int) -> Range | None:
        if partition not in starts:
            return None
        at = int(np.searchsorted(starts[partition], offset, "right")) - 1
        return by_partition[partition][at] if at >= 0 and offset < by_partition[partition][at].until else None

    return find


# ---- I4


def nothing_silent(e: Evidence) -> Found:
    newest: dict[str, int] = {}
    for row in e.rows:
        verdict = (row.score, row.is_anomaly, row.decision, row.model_version)
        if row.outcome == "scored" and (None in verdict or row.features is None or row.unscored_reason):
            yield "a scored payment lacks something", f"{e.id(*row[:2])} {verdict}"
        if row.outcome == "scored" and not np.isfinite(np.frombuffer(row.features or b"", "<f4")).all():
            yield "a scored payment has features that are no numbers", e.id(*row[:2])
        if row.outcome == "unscored":
            if row.unscored_reason not in UNSCORED:
                yield "an unscored payment has no known reason", f"{e.id(*row[:2])} {row.unscored_reason}"
            if verdict != (None, None, "review", None):
                yield "a payment without a score is not simply reviewed", f"{e.id(*row[:2])} {verdict}"
        if row.outcome == "duplicate" and verdict != (None, None, None, None):
            yield "a duplicate was decided", f"{e.id(*row[:2])} {verdict}"
    for letter in e.letters:
        if not letter.code or not letter.detail:
            yield "a dead letter does not say why", e.id(*letter[:2])
    for row in _as_decided(e):
        if row.outcome in DECIDED:
            if row.late != (row.event_us < newest.get(row.user_id, row.event_us)):
                yield "late is said wrongly", f"{e.id(*row[:2])} {row.late}"
            newest[row.user_id] = max(row.event_us, newest.get(row.user_id, row.event_us))


# ---- I5


def converged(e: Evidence) -> Found:
    for partition in {partition for partition, _ in e.log}:
        last = max(offset for where, offset in e.log if where == partition)
        if last >= e.committed.get(partition, 0):
            yield "a partition was not decided to its end", f"{e.id(partition, last)} {e.committed.get(partition, 0)}"
    for one in e.ranges:
        if not one.published:
            yield "a range was not published", e.id(one.partition, one.first)
    newest: dict[str, int] = {}
    for row in e.rows:
        newest[e.id(*row[:2])] = max(row.revision, newest.get(e.id(*row[:2]), 0))
    for identity, revision in newest.items():
        if e.documents.get(identity) != revision and (identity, revision) not in e.parked:
            yield "a decision is neither indexed nor parked", f"{identity} {revision}"
    for identity in e.documents.keys() - newest.keys():
        yield "a document has no decision", identity
    for parked, reason in e.parked.items():
        if not reason:
            yield "a parked document does not say why", str(parked)


# ---- I6, I7


def failures_speak(e: Evidence) -> Found:
    for complaint in e.complaints:
        yield "a failure does not say what it is", complaint


def nothing_leaks(e: Evidence) -> Found:
    for leak in e.leaks:
        yield "a card number or a secret was found", leak


# ---- I8


def ranges_in_order(e: Evidence) -> Found:
    find = _finder(e.ranges)
    held: Counter[tuple[int, int]] = Counter()
    for partition, offset in [*(row[:2] for row in e.live), *(letter[:2] for letter in e.letters)]:
        inside = find(partition, offset)
        if inside is None:
            yield "an outcome lies in no range", e.id(partition, offset)
        else:
            held[partition, inside.first] += 1
    until: dict[int, int] = defaultdict(int)
    at: dict[int, float] = defaultdict(float)
    for one in sorted(e.ranges):
        name = e.id(one.partition, one.first)
        if one.first < until[one.partition]:
            yield "ranges overlap", f"{name} begins before {until[one.partition]}"
        if one.committed_at < at[one.partition] - CLOCK_S:
            yield "a range was committed before the one that precedes it", name
        if held[one.partition, one.first] != one.records:
            yield "a range counts wrongly", f"{name} {one.records} counted, {held[one.partition, one.first]} there"
        until[one.partition] = max(one.until, until[one.partition])
        at[one.partition] = max(one.committed_at, at[one.partition])
    for partition, committed in e.committed.items():
        if committed != until[partition]:
            yield "the ledger is not where its last range ends", f"{partition}: {committed}, not {until[partition]}"


INVARIANTS: dict[str, Callable[[Evidence], Found]] = {
    "I1": one_outcome,
    "I2": decided_once,
    "I3": one_model,
    "I4": nothing_silent,
    "I5": converged,
    "I6": failures_speak,
    "I7": nothing_leaks,
    "I8": ranges_in_order,
}
