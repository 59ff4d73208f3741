"""Dead letters for operators: list them, show one, and produce those again that the contract takes by now.

What is kept of a record is its first 4 KiB with card numbers masked. Only what is kept whole, as its hash proves,
can be produced again; it then goes through the stream as any record, under the coordinates it first had.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from feature_repo.errors import BadConfiguration, BadRecord, DeadLetterUnknown, DependencyDown, ReplayRefused
from feature_repo.hashing import partitions_of
from feature_repo.parser import ParseOptions, parse_one
from feature_repo.redaction import redact
from feature_repo.settings import Settings
from feature_repo.transaction import rfc3339
from pipelines import log, requests
from pipelines.live import reading
from streaming.decisions import decision_id
from streaming.publish import ORIGIN_HEADER
from streaming.records import REKEYED

REPLAYED = "replay_dead_letter"  # in the audit log
ANSWER_S = 30.0  # Kafka's

COLUMNS = """kafka_topic, kafka_partition, kafka_offset, code, detail, payload, payload_bytes, payload_sha256,
    ingested_at, processed_at"""
CONDITIONS = {
    "topic": "kafka_topic = %(topic)s",
    "code": "code = %(code)s",
    "since": "ingested_at >= %(since)s",
    "partition": "kafka_partition = %(partition)s",
}
OLDER = """(ingested_at, kafka_partition, kafka_offset) < (
    SELECT ingested_at, kafka_partition, kafka_offset FROM dead_letters
    WHERE kafka_topic = %(topic)s AND kafka_partition = %(after_partition)s AND kafka_offset = %(after_offset)s)"""


@dataclass(frozen=True)
class Asked:
    """Which dead letters: those that fit everything that is given. `after` are coordinates, its older ones follow."""

    code: str | None = None
    since: datetime | None = None
    partition: int | None = None
    after: str | None = None
    limit: int = 50


@dataclass(frozen=True)
class DeadLetter:
    """A row of `dead_letters`."""

    kafka_topic: str
    kafka_partition: int
    kafka_offset: int
    code: str
    detail: str
    payload: bytes
    payload_bytes: int
    payload_sha256: bytes
    ingested_at: datetime
    processed_at: datetime

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> "DeadLetter":
        topic, partition, offset, code, detail, payload, size, digest, ingested, processed = row
        return cls(
            topic,
            partition,
            offset,
            code,
            detail,
            bytes(payload or b""),
            size,
            bytes(digest or b""),
            ingested,
            processed,
        )

    @property
    def coordinates(self) -> str:
        return decision_id(self.kafka_topic, self.kafka_partition, self.kafka_offset)

    @property
    def whole(self) -> bool:
        """Whether the payload is what came: neither cut nor masked."""
        return len(self.payload) == self.payload_bytes and sha256(self.payload).digest() == self.payload_sha256

    def as_json(self) -> dict[str, Any]:
        return {
            "coordinates": self.coordinates,
            "code": self.code,
            "detail": self.detail,
            "payload_bytes": self.payload_bytes,
            "whole": self.whole,
            "ingested_at": rfc3339(self.ingested_at),
            "processed_at": rfc3339(self.processed_at),
        }


@dataclass(frozen=True)
class Listed:
    """Newest first; `counts` by code of all that fit, most frequent first; `after` continues where more follow."""

    counts: dict[str, int]
    items: list[DeadLetter]
    after: str | None


@dataclass(frozen=True)
class Replayed:
    """One dead letter that was produced again, and where it lies now."""

    origin: str
    code: str
    produced: str  # TOPIC-PARTITION-OFFSET


def listed(settings: Settings, asked: Asked) -> Listed:
    """Raises BadConfiguration and DeadLetterUnknown for an `after` that is none; StoreUnavailable."""
    values: dict[str, Any] = {"topic": settings.topic}
    values |= {name: value for name in CONDITIONS if (value := getattr(asked, name, None)) is not None}
    fits = " AND ".join(CONDITIONS[name] for name in values)
    page = fits
    if asked.after is not None:
        after = find(settings, asked.after)
        values |= {"after_partition": after.kafka_partition, "after_offset": after.kafka_offset}
        page += f" AND {OLDER}"
    with reading(settings) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT code, count(*) FROM dead_letters WHERE {fits} GROUP BY code ORDER BY 2 DESC, 1", values)
        counts = dict(cursor.fetchall())
        cursor.execute(
            f"SELECT {COLUMNS} FROM dead_letters WHERE {page}"
            " ORDER BY ingested_at DESC, kafka_partition DESC, kafka_offset DESC LIMIT %(rows)s",
            {**values, "rows": asked.limit + 1},
        )
        found = [DeadLetter.of(row) for row in cursor.fetchall()]
    items = found[: asked.limit]
    return Listed(counts, items, items[-1].coordinates if len(found) > asked.limit else None)


def find(settings: Settings, coordinates: str) -> DeadLetter:
    """The dead letter of a record, named TOPIC-PARTITION-OFFSET or PARTITION-OFFSET.

    Raises BadConfiguration where that is no name of a record, DeadLetterUnknown, StoreUnavailable.
    """
    partition, offset = _place(settings, coordinates)
    with reading(settings) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {COLUMNS} FROM dead_letters WHERE kafka_topic = %s AND kafka_partition = %s AND kafka_offset = %s",
            (settings.topic, partition, offset),
        )
        row = cursor.fetchone()
    if row is None:
        raise DeadLetterUnknown(decision_id(settings.topic, partition, offset))
    return DeadLetter.of(row)


def headers(settings: Settings, letter: DeadLetter) -> list[tuple[str, str]] | None:
    """Names and values of the record's headers, masked; they are in Kafka only: None where it is no longer there.

    Raises DependencyDown.
    """
    record = log.record(settings, letter.kafka_partition, letter.kafka_offset)
    if record is None or record.offset() != letter.kafka_offset:
        return None
    try:
        found = record.headers() or []
    except SystemError:  # what the client raises for a name that is no UTF-8
        return [("(headers that cannot be read: a name is no UTF-8)", "")]
    pairs = found.items() if isinstance(found, dict) else found
    return [(_masked(name), _masked(value)) for name, value in pairs]


def _masked(value: str | bytes | None) -> str:
    raw = value.encode() if isinstance(value, str) else value or b""
    return redact(raw).decode("utf-8", "backslashreplace")


def replay(
    settings: Settings, letters: Sequence[DeadLetter], actor: str, clock: Callable[[], float] = time.time
) -> tuple[list[Replayed], list[ReplayRefused]]:
    """Produce dead letters again, each into its user's partition; answers what lies where, and what was refused.

    An audit row of each is committed first: what was produced is known whatever happens after. Doing it twice makes
    a duplicate, which the stream marks. Raises DependencyDown where Kafka does not take one, StoreUnavailable.
    """
    ready: list[tuple[DeadLetter, str, int]] = []
    refused: list[ReplayRefused] = []
    for letter in letters:
        try:
            ready.append((letter, *_fit(settings, letter, int(clock() * 1e6))))
        except ReplayRefused as error:
            refused.append(error)
    with requests.connected(settings) as connection, connection, connection.cursor() as cursor:
        for letter, _, partition in ready:
            after = {"topic": settings.topic, "partition": partition}
            requests.audit(cursor, actor, REPLAYED, letter.coordinates, {"code": letter.code}, after)
    return _produced(settings, ready), refused


def _fit(settings: Settings, letter: DeadLetter, now: int) -> tuple[str, int]:
    """User and partition of a payment that the contract takes now. Raises ReplayRefused."""
    if letter.code == REKEYED:
        why = "it was produced again to its place when it was read"
        raise ReplayRefused(letter.coordinates, "ALREADY_PRODUCED", why)
    if not letter.whole:
        why = f"what is kept is not what came ({letter.payload_bytes} bytes): card numbers masked, or cut"
        raise ReplayRefused(letter.coordinates, "PAYLOAD_INCOMPLETE", why)
    try:
        user = parse_one(letter.payload, now, ParseOptions.of(settings)).column("user_id")
    except BadRecord as error:
        why = f"it would be refused again: {error.code}, {error}"
        raise ReplayRefused(letter.coordinates, "NOT_A_PAYMENT", why) from error
    return user[0].as_py(), int(partitions_of(user, settings.partitions, murmur2=settings.murmur2)[0])


def _produced(settings: Settings, ready: Sequence[tuple[DeadLetter, str, int]]) -> list[Replayed]:
    lies: dict[str, str] = {}
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "client.id": "vigil-dlq",
            "enable.idempotence": True,
            "message.timeout.ms": int(ANSWER_S * 1_000),
            "log_level": 0,
        }
    )

    def delivered(origin: str) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error.str())
            else:
                lies[origin] = f"{message.topic()}-{message.partition()}-{message.offset()}"

        return report

    for letter, user, partition in ready:
        origin = letter.coordinates
        while True:
            try:
                producer.produce(
                    settings.topic, letter.payload, user.encode(), partition, on_delivery=delivered(origin),
                    headers={ORIGIN_HEADER: origin},
                )  # fmt: skip
                break
            except BufferError:  # it holds as much as it may: some are given up, if not taken, after ANSWER_S
                producer.poll(0.1)
    left = producer.flush(ANSWER_S + 5)
    if failed or left:
        cause = failed[0] if failed else "no answer in time"
        told = f"{len(ready) - len(lies)} of {len(ready)} not produced: {cause}; doing it again is harmless"
        raise DependencyDown("Kafka", settings.kafka_bootstrap, told)
    return [Replayed(letter.coordinates, letter.code, lies[letter.coordinates]) for letter, _, _ in ready]


def _place(settings: Settings, coordinates: str) -> tuple[int, int]:
    found = re.fullmatch(rf"(?:{re.escape(settings.topic)}-)?([0-9]{{1,9}})-([0-9]{{1,18}})", coordinates)
    if found is None:
        named = f"{settings.topic}-PARTITION-OFFSET, such as {settings.topic}-0-17"
        raise BadConfiguration(f"{coordinates} names no record of topic {settings.topic}", remedy=named)
    return int(found[1]), int(found[2])
