"""One task of the stream: a contiguous range of one Kafka partition becomes durable decisions.

`Road.take` is the order of effects, and the order is the correctness argument (DESIGN §3): the ledger in
PostgreSQL moves first and alone says what is decided; states follow under a fence; Kafka comes last and
may repeat itself.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from feature_repo import kernel
from feature_repo.errors import (
    DependencyDown,
    RowRefused,
    SchemaBreak,
    StateAhead,
    StateBehind,
    StateCorrupt,
    StateLost,
)
from feature_repo.features import WIDTH
from feature_repo.hashing import Events, events_of, partitions_of
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot, lookup_in
from serving.client import LoadedModel
from serving.decision import RULESET, decide
from streaming.culprits import culprits
from streaming.decisions import (
    CURRENCY_UNSUPPORTED,
    DUPLICATE,
    NOT_UNSCORED,
    SCORED,
    UNSCORED,
    UNSCORED_REASONS,
    DeadLetter,
    Decisions,
    Range,
    Shadow,
)
from streaming.documents import alert_rows, decision_messages
from streaming.ledger import Ledger
from streaming.publish import Publisher, publish_range
from streaming.records import EXPECTED_CODES, Records
from streaming.rows import dead_letter_copy, decision_copy
from streaming.scoring import Pin, Pins, Scores, without
from streaming.states import StateStore
from streaming.steps import Stopwatch

log = logging.getLogger(__name__)

NOBODY: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class Placed:
    """The payments of a range that parsed and lie in their user's partition, in log order."""

    rows: npt.NDArray[np.int64]  # positions in Records
    payments: pa.RecordBatch
    letters: list[DeadLetter]  # every record that did not get this far

    def after(self, keep: npt.NDArray[np.bool_]) -> "Placed":
        if keep.all():
            return self
        return replace(self, rows=self.rows[keep], payments=self.payments.filter(pa.array(keep)))


@dataclass(frozen=True)
class Folded:
    """Features and flags of the placed payments, and the states they left behind."""

    features: npt.NDArray[np.float32]
    flags: npt.NDArray[np.uint8]
    ours: npt.NDArray[np.bool_]  # in the configured currency: the others have neither features nor flags
    users: list[str]
    states: npt.NDArray[np.void]


@dataclass
class Taken:
    """What became of a range; `seconds` by step, `published` False where Kafka did not take everything."""

    partition: int
    first: int
    until: int
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    published: bool = True
    model_version: str | None = None
    oldest: int = 0  # broker's timestamp of the oldest record decided, microseconds
    unscored: dict[str, int] = field(default_factory=dict)  # by reason
    late: int = 0
    flagged: int = 0


class Road:
    """The nine steps over the real stores; one per Python worker, used by one task at a time."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        states: StateStore,
        publisher: Publisher,
        scorer: Callable[[npt.NDArray[np.float32], Pin | None], Scores],
        challenger: Callable[[npt.NDArray[np.float32], LoadedModel], Shadow | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._states = states
        self._publisher = publisher
        self._scorer = scorer
        self._challenger = challenger
        self._clock = clock
        self._options = ParseOptions.of(settings)

    def take(
        self,
        records: Records,
        pins: Pins,
        accepted: frozenset[tuple[int, int, int]],
        merchants: Snapshot | None,
        failed: Mapping[int, str] = NOBODY,
        *,
        publish: bool = True,
    ) -> Taken:
        """Decide one range, exactly once.

        1 parse, 2 claim, 3 load, 4 fold, 5 score, 6 decide, 7 commit, 8 save, 9 publish.
        `accepted` are ranges (partition, first, last offset) whose dead letters an operator accepted;
        `merchants` is the batch's snapshot, None where none was ever made. `failed` are offsets that cannot be
        processed, each with the reason: they become dead letters PROCESSING_FAILED and no part of any state,
        as do those whose rows PostgreSQL refuses. Without `publish` step 9 is left to the repair.
        Raises LedgerMoved or Fenced when another job has the partition, SchemaBreak, StateLost, StateAhead,
        StateBehind, StateCorrupt, and DependencyDown from a store: the same range may then simply be taken again.
        """
        while True:
            try:
                return self._take(records, pins, accepted, merchants, failed, publish)
            except _Refused as refused:
                failed = {**failed, **refused.offsets}

    def _take(
        self,
        records: Records,
        pins: Pins,
        accepted: frozenset[tuple[int, int, int]],
        merchants: Snapshot | None,
        failed: Mapping[int, str],
        publish: bool,
    ) -> Taken:
        attempt = str(uuid4())
        watch = Stopwatch()
        placed = self._parse(records, failed)
        watch.lap("parse")
        committed, untouched = self._ledger.claim(records.partition, attempt)
        folded_until = self._folded_until(records, attempt, committed, untouched)
        watch.lap("claim")
        self._refuse_schema_break(records, placed, committed, accepted)
        placed = placed.after(self._to_fold(records.partition, records.offsets[placed.rows], folded_until, committed))
        events = events_of(placed.payments, lookup_in(merchants))
        folded = self._fold(records, attempt, placed, events, watch)
        fresh = records.offsets[placed.rows] >= committed
        if (folded.flags[fresh] & kernel.FOLDED).any():
            self._states.confirm(records.partition, attempt)  # a rival that took over meanwhile has folded them
            raise StateCorrupt(f"partition {records.partition}: a user state is ahead of folded_until")
        positions, scores = self._score(placed, folded, fresh, pins)
        watch.lap("score")
        shadow = self._shadow(folded.features[positions], scores, pins.challenger) if pins.challenger else None
        watch.lap("shadow")
        scored = (positions, scores, shadow)
        decisions, letters = self._decide(records, placed, folded, fresh, scored, committed, merchants)
        watch.lap("decide")
        done = self._range(records, attempt, committed, decisions, letters)
        if done.records:
            copies = (
                decision_copy(decisions) if len(decisions) else b"",
                dead_letter_copy(done.topic, done.partition, done.processed, letters) if letters else b"",
            )
            watch.lap("encode")
            try:
                self._ledger.commit(done, committed, *copies)
            except RowRefused as error:
                offsets = self._refused(decisions, letters)
                if not offsets.keys() - failed.keys():
                    raise
                raise _Refused(offsets) from error
        watch.lap("commit")
        if records.until > folded_until:
            self._states.save(records.partition, attempt, folded.users, folded.states, records.until)
        watch.lap("save")
        published = self._publish(done, decisions, letters, publish)
        watch.lap("publish")
        return _taken(done, watch.seconds, published, records.ingested, decisions, letters)

    # ---- 1 parse

    def _parse(self, records: Records, failed: Mapping[int, str]) -> Placed:
        beyond = np.flatnonzero(np.isin(records.offsets, list(failed)))
        readable = records.without(beyond) if len(beyond) else records
        parsed = parse(readable.values, records.ingested, self._options)
        letters = [letter for letter in records.rejected(parsed.rejects) if letter.offset not in failed]
        letters += [records.failed(row, failed[int(records.offsets[row])]) for row in beyond.tolist()]
        rows, payments = parsed.rows, parsed.payments
        belongs = partitions_of(payments.column("user_id"), self._settings.partitions, murmur2=self._settings.murmur2)
        misplaced = belongs != records.partition
        for position in np.flatnonzero(misplaced).tolist():
            letters.append(records.misplaced(int(rows[position]), int(belongs[position])))
        return Placed(rows, payments, letters).after(~misplaced)

    # ---- 2 claim

    def _folded_until(self, records: Records, attempt: str, committed: int, untouched: bool) -> int:
        partition, first = records.partition, int(records.offsets[0])
        folded = self._states.claim(partition, attempt, untouched=untouched)
        if folded is None:
            raise StateLost(partition, committed)
        if folded > committed:
            raise StateAhead(partition, folded, committed)
        missing = min(first, committed)
        if folded < missing and self._ledger.decided(partition, folded, missing):
            raise StateBehind(partition, folded, first)
        return folded

    def _to_fold(
        self, partition: int, offsets: npt.NDArray[np.int64], folded_until: int, committed: int
    ) -> npt.NDArray[np.bool_]:
        """Which payments the states lack; what was buried stays out of them, whatever the parser says of it today."""
        keep = offsets >= folded_until
        if folded_until < committed:
            keep &= ~np.isin(offsets, self._ledger.buried(partition, folded_until, committed))
        return keep

    def _refuse_schema_break(
        self,
        records: Records,
        placed: Placed,
        committed: int,
        accepted: frozenset[tuple[int, int, int]],
    ) -> None:
        fresh = int((records.offsets >= committed).sum())
        bad = [x for x in placed.letters if x.offset >= committed and x.code not in EXPECTED_CODES]
        bad = [x for x in bad if not any(p == records.partition and a <= x.offset <= b for p, a, b in accepted)]
        if len(bad) > self._settings.dead_letter_floor and len(bad) > self._settings.dead_letter_ceiling * fresh:
            most_common = Counter(letter.code for letter in bad).most_common(1)[0][0]
            offsets = [letter.offset for letter in bad]
            raise SchemaBreak(records.partition, min(offsets), max(offsets), len(bad), fresh, most_common)

    # ---- 3 load, 4 fold

    def _fold(self, records: Records, attempt: str, placed: Placed, events: Events, watch: Stopwatch) -> Folded:
        """States and features. Amounts of several currencies are never summed: foreign payments stay out."""
        ours = self._ours(placed.payments)
        mine, events = placed.after(ours), events if ours.all() else events.take(ours)
        hashes, first, slots = np.unique(events.user, return_index=True, return_inverse=True)
        users = mine.payments.column("user_id").take(pa.array(first)).to_pylist()
        states = self._states.load(records.partition, attempt, users, hashes)
        watch.lap("load")
        features = np.full((len(ours), WIDTH), np.nan, np.float32)
        flags = np.zeros(len(ours), np.uint8)
        features[ours], flags[ours] = kernel.fold(
            states, slots.astype(np.int64), events, records.partition, records.offsets[mine.rows]
        )
        watch.lap("fold")
        return Folded(features, flags, ours, users, states)

    def _ours(self, payments: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Which payments are in the configured currency, as those that name none are."""
        currency = payments.column("currency")
        if currency.null_count == len(currency):
            return np.ones(len(currency), np.bool_)
        ours = pa.compute.equal(currency, self._settings.currency).fill_null(True)
        return np.asarray(ours.to_numpy(zero_copy_only=False))

    # ---- 5 score

    def _score(
        self, placed: Placed, folded: Folded, fresh: npt.NDArray[np.bool_], pins: Pins
    ) -> tuple[npt.NDArray[np.int64], Scores]:
        """Positions in `placed` of the payments that get a score, and their scores."""
        seen = folded.flags & (kernel.DUPLICATE | kernel.CONFLICT) != 0
        positions = np.flatnonzero(fresh & folded.ours & ~seen)
        if pins.champion is None:
            return positions, without(len(positions), pins.silence)
        return positions, self._scorer(folded.features[positions], pins.champion)

    def _shadow(self, features: npt.NDArray[np.float32], scores: Scores, challenger: LoadedModel) -> Shadow | None:
        """What the challenger says of the same payments. Where the champion fell silent nobody else is asked."""
        silent = (scores.unscored != NOT_UNSCORED).any()
        return None if silent else self._challenger(features, challenger)

    # ---- 6 decide

    def _decide(
        self,
        records: Records,
        placed: Placed,
        folded: Folded,
        fresh: npt.NDArray[np.bool_],
        scored: tuple[npt.NDArray[np.int64], Scores, Shadow | None],
        committed: int,
        merchants: Snapshot | None,
    ) -> tuple[Decisions, list[DeadLetter]]:
        positions, scores, shadow = scored
        n = len(placed.rows)
        score = np.zeros(n, np.float32)
        reasons, shares = np.full((n, 4), 255, np.uint8), np.zeros((n, 4), np.float32)
        outcome, unscored = np.full(n, UNSCORED, np.uint8), np.full(n, CURRENCY_UNSUPPORTED, np.uint8)
        score[positions] = scores.records["score"]
        reasons[positions], shares[positions] = scores.records["reasons"], scores.records["shares"]
        unscored[positions] = scores.unscored
        outcome[positions[scores.unscored == NOT_UNSCORED]] = SCORED
        duplicate = folded.flags & kernel.DUPLICATE != 0
        outcome[duplicate], unscored[duplicate] = DUPLICATE, NOT_UNSCORED
        threshold = scores.pin.threshold if scores.pin else 1.0
        is_anomaly, decision = decide(score, outcome == SCORED, threshold, self._settings.reject_threshold)

        conflict = folded.flags & kernel.CONFLICT != 0
        letters = [letter for letter in placed.letters if letter.offset >= committed]
        for position in np.flatnonzero(conflict & fresh).tolist():
            letters.append(records.conflicting(int(placed.rows[position])))
        keep = fresh & ~conflict
        kept = placed.after(keep)
        decisions = Decisions(
            topic=self._settings.topic,
            partition=records.partition,
            payments=kept.payments,
            offsets=records.offsets[kept.rows],
            ingested=records.ingested[kept.rows],
            processed=int(self._clock() * 1e6),
            outcome=outcome[keep],
            unscored=unscored[keep],
            scores=score[keep],
            is_anomaly=is_anomaly[keep],
            decision=decision[keep],
            reasons=reasons[keep],
            shares=shares[keep],
            features=folded.features[keep].reshape(-1, WIDTH),
            late=folded.flags[keep] & kernel.LATE != 0,
            model_version=scores.pin.version if scores.pin else None,
            feature_set_id=scores.pin.feature_set_id if scores.pin else None,
            ruleset=RULESET,
            side_inputs=merchants.id if merchants else None,
            currency=self._settings.currency,
            shadow=_spread(shadow, positions, keep),
        )
        return decisions, letters

    # ---- 7 commit

    def _range(
        self, records: Records, attempt: str, committed: int, decisions: Decisions, letters: list[DeadLetter]
    ) -> Range:
        fresh = records.offsets[records.offsets >= committed]
        counts = np.bincount(decisions.outcome, minlength=3)
        return Range(
            topic=self._settings.topic,
            partition=records.partition,
            first=int(fresh[0]) if len(fresh) else committed,
            until=max(records.until, committed),
            attempt=attempt,
            processed=decisions.processed,
            model_version=decisions.model_version,
            feature_set_id=decisions.feature_set_id,
            ruleset=decisions.ruleset,
            records=len(fresh),
            dead_letters=len(letters),
            outcomes={
                "scored": int(counts[SCORED]),
                "unscored": int(counts[UNSCORED]),
                "duplicate": int(counts[DUPLICATE]),
            },
        )

    def _refused(self, decisions: Decisions, letters: list[DeadLetter]) -> dict[int, str]:
        """Offsets whose rows PostgreSQL refuses, and why; each user's first, all of them where it is a SCHEMA_BREAK."""
        reasons: dict[int, str] = {}

        def refused_decision(rows: slice) -> bool:
            why = self._ledger.refuses(decision_copy(decisions.select(rows)), b"")
            return note(decisions.offsets[rows].tolist(), why)

        def refused_letter(rows: slice) -> bool:
            some = letters[rows]
            copy = dead_letter_copy(decisions.topic, decisions.partition, decisions.processed, some)
            return note([letter.offset for letter in some], self._ledger.refuses(b"", copy))

        def note(offsets: list[int], why: str | None) -> bool:
            if why and len(offsets) == 1:
                reasons[offsets[0]] = f"PostgreSQL refused the row (SQLSTATE {why})"
            return why is not None

        n = len(decisions) + len(letters)
        most = max(self._settings.dead_letter_floor, int(self._settings.dead_letter_ceiling * n)) + 1
        found = culprits(len(decisions), refused_decision, most)
        culprits(len(letters), refused_letter, most)
        if len(found) < most:  # without a user's first, the later ones may come to something else: next time
            users = decisions.payments.column("user_id").take(pa.array(found, pa.int64())).to_pylist()
            first = {user: position for position, user in zip(reversed(found), reversed(users), strict=True)}
            for position in set(found) - set(first.values()):
                del reasons[int(decisions.offsets[position])]
        log.error("partition %d: PostgreSQL refuses rows of offsets %s", decisions.partition, sorted(reasons)[:20])
        return reasons

    # ---- 9 publish

    def _publish(self, done: Range, d: Decisions, letters: list[DeadLetter], publish: bool) -> bool:
        """Put the range on Kafka and note it; False where that was not to be or not possible (repaired later)."""
        if not done.records or not publish:
            return not done.records
        try:
            messages = decision_messages(d)
            alerts = [messages[row] for row in alert_rows(d)]
            publish_range(self._publisher, self._settings, done.partition, messages, alerts, letters, done.processed)
            self._ledger.mark_published(done.partition, done.first)
        except DependencyDown as error:
            log.warning("range %s-%d from %d not published: %s", done.topic, done.partition, done.first, error)
            return False
        return True


def _spread(shadow: Shadow | None, positions: npt.NDArray[np.int64], keep: npt.NDArray[np.bool_]) -> Shadow | None:
    """Scores of some payments, at `positions` among all, as scores of those that are kept."""
    if shadow is None:
        return None
    scores = np.full(len(keep), np.nan, np.float32)
    scores[positions] = shadow.scores
    return replace(shadow, scores=scores[keep])


def _taken(
    done: Range,
    seconds: dict[str, float],
    published: bool,
    ingested: npt.NDArray[np.int64],
    decisions: Decisions,
    letters: list[DeadLetter],
) -> Taken:
    reasons = np.bincount(decisions.unscored[decisions.outcome == UNSCORED], minlength=len(UNSCORED_REASONS))
    return Taken(
        partition=done.partition,
        first=done.first,
        until=done.until,
        outcomes=Counter(done.outcomes) + Counter(letter.code for letter in letters),
        seconds=seconds,
        published=published,
        model_version=done.model_version,
        oldest=int(ingested[0]),
        unscored={reason: count for reason, count in zip(UNSCORED_REASONS, reasons.tolist(), strict=True) if count},
        late=int(decisions.late.sum()),
        flagged=int(decisions.is_anomaly.sum()),
    )


class _Refused(Exception):
    """Offsets whose rows PostgreSQL does not take, and why: the range is taken again without them."""

    def __init__(self, offsets: dict[int, str]) -> None:
        super().__init__(offsets)
        self.offsets = offsets
