"""Hashes stand for texts in user states, and a user's Kafka partition is what every producer computes."""

import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.hashing import events_of, hash_texts, partitions_of
from feature_repo.snapshot import no_snapshot
from tests.unit.oracle import Payment
from tests.unit.streams import batch_of

PAYMENT = Payment("t1", "ada", 1_000_000, 12.5, "shop", "town", "card", "phone", 52.5, 13.4)

# From Kafka's own UtilsTest.testMurmur2.
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize("partitions", [1, 4, 7, 1_000])
def test_partitions_are_those_of_javas_producer(partitions: int) -> None:
    got = partitions_of(pa.array(list(MURMUR2)), partitions)
    assert got.tolist() == [(h & 0x7FFFFFFF) % partitions for h in MURMUR2.values()]


@given(st.lists(st.text(max_size=40)), st.integers(1, 50))
def test_partitions_are_those_of_librdkafkas_consistent_partitioner(users: list[str], partitions: int) -> None:
    got = partitions_of(pa.array(users, pa.string()), partitions, murmur2=False)
    assert got.tolist() == [zlib.crc32(user.encode()) % partitions for user in users]


@given(st.lists(st.text(max_size=20), unique=True))
def test_texts_have_hashes_of_their_own_in_each_column(texts: list[str]) -> None:
    column = pa.array(texts, pa.string())
    hashes = [*hash_texts(column, "merchant").tolist(), *hash_texts(column, "location").tolist()]
    assert len(set(hashes)) == len(hashes)
    assert 0 not in hashes


def test_a_part_of_a_column_hashes_as_in_the_whole() -> None:
    column = pa.array(["a", None, "länger als acht bytes", "", "b", None])
    whole = hash_texts(column, "merchant")
    assert whole[1] == whole[5] == 0
    assert (hash_texts(column.slice(1, 4), "merchant") == whole[1:5]).all()


def test_equal_payments_have_equal_payloads_and_every_field_counts() -> None:
    others = [
        replace(PAYMENT, **{field: value})
        for field, value in {
            "id": "t2",
            "user": "bob",
            "time": 1_000_001,
            "amount": 12.5001,
            "merchant": "Shop",
            "place": "Town",
            "method": "wallet",
            "device": None,
            "latitude": 52.500000001,
            "longitude": None,
        }.items()
    ]
    payloads = events_of(batch_of([PAYMENT, PAYMENT, *others]), no_snapshot).payload
    assert payloads[0] == payloads[1]
    assert len(np.unique(payloads)) == 1 + len(others)


def test_columns_outside_the_features_count_in_the_payload_too() -> None:
    batch = batch_of([PAYMENT])
    plain = events_of(batch, no_snapshot).payload[0]
    for name in ("currency", "merchant_category", "channel"):
        changed = batch.set_column(batch.schema.get_field_index(name), name, pa.array(["x"]))
        assert events_of(changed, no_snapshot).payload[0] != plain, name
