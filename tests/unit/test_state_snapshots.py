"""Why a snapshot that was taken while records moved on may be folded on from, and when it may not."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import kernel, state
from feature_repo.errors import SnapshotCorrupt
from feature_repo.hashing import hash_texts
from feature_repo.settings import Settings
from feature_repo.state import LAYOUT
from pipelines.online import Seed
from pipelines.state.snapshots import MANIFEST, Lineage, Part, Snapshot, _write, folder_of, load, names, unfit, verify
from tests.unit.oracle import Payment
from tests.unit.streams import Log, long_stream, streams

NOW = Lineage("payments", "topic id", 2, "murmur2", Seed("demo", "sha", {0: 0, 1: 0}))
KEPT = Snapshot(
    "20260301T000000.000000Z", "2026-03-01T00:00:00+00:00", NOW, LAYOUT, "ms_1",
    {0: Part(100, 120, 7, 1_000, "sha"), 1: Part(40, 30, 7, 1_000, "sha")},
)  # fmt: skip


@given(streams(), st.data())
def test_records_read_at_any_moments_after_the_watermark_come_to_the_same_bytes(
    payments: list[Payment], data: st.DataObject
) -> None:
    """Repeats, conflicts, late ones and silences included: each record guards itself by its own offset."""
    n = len(payments)
    watermark = data.draw(st.integers(0, n))
    whole, kept = Log(payments), Log(payments)
    whole.fold()
    for slot in range(len(kept.states)):
        moment = Log(payments)
        moment.fold(0, data.draw(st.integers(watermark, n)))
        kept.states[slot] = moment.states[slot]
    kept.fold(watermark)
    assert kept.states.tobytes() == whole.states.tobytes()


@given(streams(), st.data())
def test_folding_a_range_again_changes_no_byte(payments: list[Payment], data: st.DataObject) -> None:
    log = Log(payments)
    log.fold()
    before = log.states.tobytes()
    _, flags = log.fold(data.draw(st.integers(0, len(payments))))
    assert log.states.tobytes() == before
    assert (flags == kernel.FOLDED).all()


@pytest.mark.parametrize(
    ("committed", "oldest", "why"),
    [
        (120, 100, None),
        (500, 0, None),
        (119, 0, "payments up to offset 120, the ledger only up to 119"),
        (500, 101, "goes on from offset 100, the log begins at 101"),
    ],
)
def test_ledger_and_log_decide_whether_a_snapshot_fits(committed: int, oldest: int, why: str | None) -> None:
    found = unfit(KEPT, 0, NOW, committed, oldest)
    assert found is None if why is None else why in (found or "")


def test_where_nothing_is_to_be_folded_the_log_may_be_empty() -> None:
    assert unfit(KEPT, 1, NOW, 40, 1_000) is None


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (replace(NOW, topic="others"), "another topic"),
        (replace(NOW, topic_id="made again"), "made again"),
        (replace(NOW, partitions=3), "other partitions"),
        (replace(NOW, partitioner="crc32"), "other partitions"),
        (replace(NOW, seed=None), "a history replaced the states since"),
        (replace(NOW, seed=Seed("demo", "sha", {0: 9, 1: 0})), "a history replaced the states since"),
    ],
)
def test_a_snapshot_of_other_states_is_of_no_use(now: Lineage, why: str) -> None:
    assert why in (unfit(KEPT, 0, now, 500, 0) or "")


def test_a_snapshot_of_a_layout_that_cannot_be_carried_over_is_of_no_use() -> None:
    assert "cannot be carried over" in (unfit(replace(KEPT, layout=1), 0, NOW, 500, 0) or "")


def test_a_manifest_says_the_same_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(KEPT.as_json()))
    assert Snapshot.read(tmp_path) == KEPT
    assert KEPT.records == 14


class Store:
    """Two pieces of one partition, as StateStore.records gives them."""

    def __init__(self, log: Log) -> None:
        self.users = sorted({payment.user for payment in log.payments})
        hashes = hash_texts(pa.array(self.users), "user_id")
        state.seal(log.states)
        self.values = [log.states[log.states["user"] == user][0].tobytes() for user in hashes]

    def records(self) -> Iterator[tuple[int, list[str], list[bytes]]]:
        yield 2, self.users[:1], self.values[:1]
        yield 2, self.users[1:], self.values[1:]
        yield 7, ["somebody"], [b"of a partition there is no more"]


def test_what_is_written_is_read_back_and_a_changed_byte_is_seen(tmp_path: Path) -> None:
    log = Log(long_stream(3, size=90))
    log.fold()
    store: Any = Store(log)
    settings = Settings(home=tmp_path)
    folder = folder_of(settings) / KEPT.name
    folder.mkdir(parents=True)
    kept = replace(KEPT, parts=_write(folder, store, {0: 0, 2: 50}))
    assert kept.parts[2].reaches == int(log.offsets[-1]) + 1 and (kept.parts[0].records, kept.records) == (0, 3)
    verify(settings, kept, 2)
    ((users, states),) = load(settings, kept, 2)
    assert users.to_pylist() == store.users and [record.tobytes() for record in states] == store.values
    assert names(settings) == [kept.name]

    file = folder / "partition-2.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(SnapshotCorrupt, match="not what was written"):
        verify(settings, kept, 2)
    file.unlink()
    with pytest.raises(SnapshotCorrupt, match="is gone"):
        verify(settings, kept, 2)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"parts": {"a": {}}}', '{"parts": {}, "lineage": {}}'])
def test_a_manifest_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SnapshotCorrupt, match=tmp_path.name):
        Snapshot.read(tmp_path)
