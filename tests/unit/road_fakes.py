"""The stores of the nine steps in memory, with the same refusals as the real ones."""

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from feature_repo import state
from feature_repo.errors import DependencyDown, Fenced, LedgerMoved, RowRefused
from serving.client import LoadedModel
from serving.wire import SCORED
from streaming.decisions import NOT_UNSCORED, Range, Shadow
from streaming.documents import Message
from streaming.ledger import Claim
from streaming.records import ID_CONFLICT
from streaming.rows import DEAD_LETTER_COLUMNS, DECISION_COLUMNS
from streaming.scoring import Pin, Scores

HEADER_BYTES, TRAILER_BYTES = 19, 2  # of a COPY file
PIN = Pin(version="7", feature_set_id="fs_test", columns=(0, 1), threshold=0.9)
CHALLENGER = LoadedModel("8", "fs_other", ("amount_log",), 0.5, 0.01, "")


def rows_of(copy: bytes, columns: tuple[str, ...] = DECISION_COLUMNS) -> list[dict[str, bytes | None]]:
    """A COPY file as PostgreSQL reads it: the bytes of each field by column."""
    rows: list[dict[str, bytes | None]] = []
    at = HEADER_BYTES
    while at < len(copy) - TRAILER_BYTES:
        assert struct.unpack_from(">h", copy, at) == (len(columns),)
        at += 2
        row: dict[str, bytes | None] = {}
        for name in columns:
            (size,) = struct.unpack_from(">i", copy, at)
            at += 4
            row[name] = None if size < 0 else copy[at : at + size]
            at += max(size, 0)
        rows.append(row)
    return rows


def offset_of(row: dict[str, bytes | None]) -> int:
    return int.from_bytes(row["kafka_offset"] or b"", "big")


@dataclass
class FakeLedger:
    """Refuses decisions that hold any of `poison`, as a constraint of the real one would."""

    committed: dict[int, int] = field(default_factory=dict)
    attempts: dict[int, str] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)
    copies: list[bytes] = field(default_factory=list)  # of decisions, as PostgreSQL would get them
    letters: list[tuple[int, dict[str, bytes | None]]] = field(default_factory=list)  # partition, row
    poison: frozenset[bytes] = frozenset()
    published: list[tuple[int, int]] = field(default_factory=list)
    fail_after_commit: bool = False  # the connection breaks once the transaction is through

    def claim(self, partition: int, attempt: str) -> Claim:
        self.attempts[partition] = attempt
        return Claim(self.committed.get(partition, 0), partition not in self.committed)

    def commit(self, done: Range, committed: int, decisions: bytes, dead_letters: bytes) -> None:
        ours = self.attempts.get(done.partition) == done.attempt
        if not ours or self.committed.get(done.partition, 0) != committed:
            raise LedgerMoved(done.topic, done.partition)
        assert bool(decisions) == bool(done.records - done.dead_letters)
        assert bool(dead_letters) == bool(done.dead_letters)
        if self.refuses(decisions, dead_letters):
            raise RowRefused(done.topic, done.partition, "23514")
        self.committed[done.partition] = done.until
        self.ranges.append(done)
        self.copies.append(decisions)
        if dead_letters:
            self.letters += [(done.partition, row) for row in rows_of(dead_letters, DEAD_LETTER_COLUMNS)]
        if self.fail_after_commit:
            self.fail_after_commit = False
            raise DependencyDown("PostgreSQL", "memory", "connection cut after COMMIT")

    def refuses(self, decisions: bytes, dead_letters: bytes) -> str | None:
        return "23514" if any(poison in decisions for poison in self.poison) else None

    def buried(self, partition: int, first: int, until: int) -> list[int]:
        return [
            offset_of(row)
            for where, row in self.letters
            if where == partition and row["code"] != ID_CONFLICT.encode() and first <= offset_of(row) < until
        ]

    def decided(self, partition: int, first: int, until: int) -> bool:
        rows = [row for copy in filter(None, self.copies) for row in rows_of(copy)]
        rows += [row for where, row in self.letters if where == partition]
        return any(first <= offset_of(row) < until for row in rows)

    def mark_published(self, partition: int, first: int) -> None:
        self.published.append((partition, first))


@dataclass
class FakeStates:
    records: dict[str, bytes] = field(default_factory=dict)
    fences: dict[int, str] = field(default_factory=dict)
    folded: dict[int, int] = field(default_factory=dict)
    fail_save: bool = False

    def claim(self, partition: int, attempt: str, *, untouched: bool) -> int | None:
        self.fences[partition] = attempt
        if untouched:
            self.folded.setdefault(partition, 0)
        return self.folded.get(partition)

    def load(self, partition: int, attempt: str, users: list[str], hashes: npt.NDArray[np.uint64]) -> state.States:
        if users:
            if partition not in self.fences:
                raise DependencyDown("Redis", "memory", "emptied since the claim")
            self.confirm(partition, attempt)
        states = state.empty(hashes)
        for row, user in enumerate(users):
            if user in self.records:
                states[row] = np.frombuffer(self.records[user], state.STATE_DTYPE)[0]
        return states

    def confirm(self, partition: int, attempt: str) -> None:
        if self.fences[partition] != attempt:
            raise Fenced(partition)

    def save(self, partition: int, attempt: str, users: list[str], states: state.States, folded_until: int) -> None:
        if self.fail_save:
            self.fail_save = False
            raise DependencyDown("Redis", "memory", "connection refused")
        self.confirm(partition, attempt)
        state.seal(states)
        self.records.update({user: states[row].tobytes() for row, user in enumerate(users)})
        self.folded[partition] = folded_until


@dataclass
class FakePublisher:
    sent: list[tuple[str, int, Message]] = field(default_factory=list)
    again: list[tuple[int, bytes, bytes, dict[str, str]]] = field(default_factory=list)
    down: bool = False

    def send(self, topic: str, partition: int, messages: list[Message]) -> None:
        if not self.down:
            self.sent += [(topic, partition, message) for message in messages]

    def send_again(self, topic: str, partition: int, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        self.again.append((partition, key, value, headers))

    def flush(self) -> None:
        if self.down:
            raise DependencyDown("Kafka", "memory", "no broker")


def score_by_amount(features: npt.NDArray[np.float32], pin: Pin | None) -> Scores:
    """A model whose score grows with the logarithm of the amount; without a pin there is no model."""
    records = np.zeros(len(features), SCORED)
    records["reasons"] = 255
    records["reasons"][:, 0] = 0
    records["score"] = np.clip(features[:, 0] / 10, 0, 1)
    unscored = np.full(len(features), NOT_UNSCORED if pin else 0, np.uint8)
    return Scores(records, unscored, pin)


@dataclass
class FakeChallenger:
    """Scores every payment with a constant, or not at all."""

    model: LoadedModel | None = None
    score: float | None = 0.25
    asked: int = 0

    def __call__(self, features: npt.NDArray[np.float32], model: LoadedModel) -> Shadow | None:
        self.asked += 1
        return None if self.score is None else Shadow(model.version, np.full(len(features), self.score, np.float32))
