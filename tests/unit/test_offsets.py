"""What Spark planned for a batch, read from a checkpoint as Spark writes it."""

import json
from pathlib import Path

import pytest

from feature_repo.errors import StreamStopped
from streaming.offsets import OffsetRange, planned


def plan(checkpoint: Path, *offsets: dict[int, int]) -> None:
    """A checkpoint with where the query began and, batch by batch, where each ended."""
    sources, log = checkpoint / "sources" / "0", checkpoint / "offsets"
    sources.mkdir(parents=True)
    log.mkdir()
    files = [sources / "0", *(log / str(number) for number in range(len(offsets) - 1))]
    for file, ends in zip(files, offsets, strict=True):
        lines = ["v1", json.dumps({"transactions": {str(partition): end for partition, end in ends.items()}})]
        if file.parent == log:
            lines.insert(1, json.dumps({"batchWatermarkMs": 0, "conf": {}}))
        file.write_text(("" if file.parent == log else "\0") + "\n".join(lines))


def test_a_batch_goes_from_where_the_one_before_ended(tmp_path: Path) -> None:
    plan(tmp_path, {0: 10, 1: 4}, {0: 15, 1: 4}, {0: 15, 1: 9})
    assert planned(tmp_path, "transactions", 0) == [OffsetRange(0, 10, 15)]
    assert planned(tmp_path, "transactions", 1) == [OffsetRange(1, 4, 9)]


def test_a_partition_that_was_added_is_read_from_its_beginning(tmp_path: Path) -> None:
    plan(tmp_path, {0: 10}, {0: 12}, {0: 12, 1: 3})
    assert planned(tmp_path, "transactions", 1) == [OffsetRange(1, 0, 3)]


@pytest.mark.parametrize(
    "text", ["", "v1", "v2\n{}\n{}", "v1\n{}\nnot json", 'v1\n{}\n{"other":{"0":1}}', "v1\n{}\n[1]"]
)
def test_what_is_not_sparks_plan_is_refused(tmp_path: Path, text: str) -> None:
    plan(tmp_path, {0: 10}, {0: 12})
    (tmp_path / "offsets" / "0").write_text(text)
    with pytest.raises(StreamStopped, match="0 of offsets"):
        planned(tmp_path, "transactions", 0)
