"""Ranges of a topic read from the real Kafka, as a task reads them."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from feature_repo.errors import DependencyDown, RecordsGone
from feature_repo.settings import Settings
from pipelines.road import log_ends
from streaming import reader
from streaming.offsets import OffsetRange
from streaming.publish import PLACED_HEADER
from streaming.reader import Reader
from tests.services.test_lifecycle import eventually


@pytest.fixture
def settings(stack: Settings) -> Iterator[Settings]:
    """A topic of two partitions that nobody else has."""
    topic = f"read-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
    yield stack.model_copy(update={"topic": topic, "partitions": 2})
    admin.delete_topics([topic])[topic].result(30)


def produce(
    settings: Settings, values: list[bytes | None], partition: int = 0, headers: dict[str, str] | None = None
) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 2})
    for value in values:
        producer.produce(settings.topic, value, partition=partition, headers=headers or {})
    assert producer.flush(30) == 0


def transact(settings: Settings, values: list[bytes], *, commit: bool) -> None:
    """One transaction, which takes an offset after its records."""
    producer = Producer(
        {"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": uuid4().hex, "log_level": 2}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    placed: list[int] = []
    for value in values:
        producer.produce(
            settings.topic, value, partition=0, on_delivery=lambda _, message: placed.append(message.offset())
        )
    assert producer.flush(30) == 0
    producer.commit_transaction(30) if commit else producer.abort_transaction(30)
    eventually(lambda: log_ends(settings, settings.topic)[0] == placed[-1] + 2)  # Kafka writes the mark a moment later


def read(reading: Reader, partition: int, first: int, until: int) -> list[tuple[int, bytes | None]]:
    pieces = list(reading.read(OffsetRange(partition, first, until)))
    return [
        (offset, value)
        for piece in pieces
        for offset, value in zip(piece.offsets.tolist(), piece.values.to_pylist(), strict=True)
    ]


def test_ranges_are_read_to_their_end_and_no_further_in_whatever_order(settings: Settings) -> None:
    values: list[bytes | None] = [b"%d" % number for number in range(1_000)]
    produce(settings, values)
    produce(settings, [b"other", None], partition=1)
    reading, every = Reader(settings), list(enumerate(values))
    assert read(reading, 0, 0, 400) == every[:400]
    assert read(reading, 0, 400, 401) == every[400:401]
    assert read(reading, 1, 0, 2) == [(0, b"other"), (1, None)]
    assert read(reading, 0, 401, 1_000) == every[401:]
    assert read(reading, 0, 100, 300) == every[100:300], "taken again"
    produce(settings, [b"later"])
    assert read(reading, 0, 300, 1_001) == [*every[300:], (1_000, b"later")]


def test_marks_of_transactions_and_what_was_aborted_are_no_records(settings: Settings) -> None:
    transact(settings, [b"a", b"b"], commit=True)  # 0, 1, mark at 2
    transact(settings, [b"never"], commit=False)  # 3, mark at 4
    transact(settings, [b"c"], commit=True)  # 5, mark at 6
    transact(settings, [b"nor this"], commit=False)  # 7, mark at 8
    reading = Reader(settings)
    assert read(reading, 0, 0, 2) == [(0, b"a"), (1, b"b")]
    assert read(reading, 0, 2, 5) == [], "only the record behind the range shows that it is over"
    assert read(reading, 0, 5, 9) == [(5, b"c")], "only the end of the partition does"
    assert read(reading, 0, 0, 9) == [(0, b"a"), (1, b"b"), (5, b"c")]
    assert read(reading, 0, 0, 7) == [(0, b"a"), (1, b"b"), (5, b"c")]
    assert read(reading, 0, 7, 9) == [], "that all was read the client may have told before"
    produce(settings, [b"d"])
    assert read(reading, 0, 9, 10) == [(9, b"d")]


def test_what_the_broker_and_whoever_moved_it_noted_is_kept(settings: Settings) -> None:
    produce(settings, [b"by itself"])
    produce(settings, [b"moved"], headers={"other": "x", PLACED_HEADER: "2"})
    produce(settings, [b"moved for fewer partitions"], headers={PLACED_HEADER: "1"})
    (records,) = Reader(settings).read(OffsetRange(0, 0, 3))
    assert records.moved.tolist() == [False, True, False]
    assert records.partition == 0 and (records.ingested[1:] >= records.ingested[:-1]).all()
    assert 1.7e15 < records.ingested[0] < 4e15, "microseconds"


def test_headers_the_client_cannot_decode_are_not_ours(settings: Settings) -> None:
    class Undecodable:
        """A message whose header's name is no UTF-8, which this client reads but cannot produce."""

        def headers(self) -> None:
            raise SystemError("<method 'headers' of 'cimpl.Message'> returned a result with an exception set")

    assert Reader(settings)._moved(Undecodable()) is False  # type: ignore[arg-type]  # a fake


def test_a_range_of_large_payloads_comes_in_pieces(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(reader, "AT_ONCE", 2)
    produce(settings, [b"x" * 400_000] * 7)
    pieces = list(Reader(settings).read(OffsetRange(0, 0, 7)))
    assert [piece.offsets.tolist() for piece in pieces] == [[0, 1, 2, 3], [4, 5, 6]]


def test_records_that_were_deleted_are_named(settings: Settings) -> None:
    produce(settings, [b"1", b"2", b"3"])
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    for deleted in admin.delete_records([TopicPartition(settings.topic, 0, 2)]).values():
        deleted.result(30)
    reading = Reader(settings)
    with pytest.raises(RecordsGone, match="offsets 0 to 1 have no outcome"):
        read(reading, 0, 0, 3)
    assert read(reading, 0, 2, 3) == [(2, b"3")], "and the reader goes on"


def test_a_broker_that_is_away_is_a_dependency_that_is_down(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SILENCE_S", 0.5)
    away = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    with pytest.raises(DependencyDown, match="partition 0 from 0"):
        read(Reader(away), 0, 0, 1)
