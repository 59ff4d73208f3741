"""Operators' commands where they need no server."""

import os
from pathlib import Path

import numpy as np
import pytest

from feature_repo import settings as configuration
from feature_repo.errors import AlreadyRunning, BadConfiguration
from feature_repo.features import NAMES, WIDTH
from infra.local import process
from infra.local.stack import Stack
from pipelines.backfill import _by_position
from pipelines.commands.operate import _printable
from pipelines.reconcile.findings import CODES, EXAMPLES, Findings
from pipelines.reconcile.outcomes import _outside


def test_findings_are_counted_by_code_and_name_some() -> None:
    found = Findings()
    found.add("DOCUMENT_MISSING", *(f"t-0-{n}" for n in range(20)))
    found.add("OUTCOME_TWICE", "t-0-1", count=9)
    found.add("LEDGER_HOLE")
    twice, missing = found.all()
    assert (twice.code, twice.count, missing.count) == ("OUTCOME_TWICE", 9, 20)
    assert missing.cause.count("t-0-") == EXAMPLES and missing.cause.endswith(", …")
    assert all(component and cause and remedy for component, cause, remedy in CODES.values())


def test_offsets_outside_every_range_are_told_from_those_inside() -> None:
    ranges = np.array([[2, 5], [4, 6], [9, 10]])
    assert _outside(np.arange(12), ranges).tolist() == [0, 1, 6, 7, 8, 10, 11]
    assert _outside(np.array([3]), np.empty((0, 2), np.int64)).tolist() == [3]


def test_logged_vectors_are_read_by_name_and_what_was_not_logged_is_no_number() -> None:
    logged = np.array([[1.0, 2.0], [3.0, 4.0]], "<f4")
    features = _by_position([row.tobytes() for row in logged], (NAMES[3], NAMES[0]))
    assert features.shape == (2, WIDTH)
    assert features[:, [0, 3]].tolist() == [[2.0, 1.0], [4.0, 3.0]] and np.isnan(features[:, 1]).all()


def test_a_payload_cannot_move_the_cursor() -> None:
    assert _printable("Zürich\x1b[2J\x07\r\x9b1m\n") == "Zürich\\x1b[2J\\x07\\x0d\\x9b1m\n"


def test_only_a_home_of_ours_that_is_down_is_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(configuration.load(home=tmp_path))
    (tmp_path / "precious").touch()
    with pytest.raises(BadConfiguration, match="nothing was removed"):
        stack.require_erasable()
    (tmp_path / "run").mkdir()
    (tmp_path / "stack.env").touch()
    stack.require_erasable()
    monkeypatch.setattr(process, "marked", lambda home: [process.psutil.Process(os.getpid())])
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        stack.require_erasable()
