"""Cursors: good for the query they were given for, and for nothing else."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursor import Cursors, secret_key
from api.errors import CursorInvalid

CURSORS = Cursors(b"k" * 32)
POSITION = ["2026-03-01T12:00:00.000000Z", 17]
CURSOR = CURSORS.make(POSITION, "list")


def test_a_cursor_gives_its_position_back() -> None:
    assert CURSORS.read(CURSOR, "list") == POSITION


def test_a_cursor_does_not_show_its_key_and_needs_no_escaping() -> None:
    assert b"kkkk" not in base64.urlsafe_b64decode(CURSOR + "==")
    assert set(CURSOR) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_another_query_refuses_the_cursor() -> None:
    with pytest.raises(CursorInvalid) as caught:
        CURSORS.read(CURSOR, "list of another user")
    assert caught.value.status == 400


def test_another_key_refuses_the_cursor() -> None:
    with pytest.raises(CursorInvalid):
        Cursors(b"o" * 32).read(CURSOR, "list")


@given(st.integers(0, len(CURSOR) - 1), st.sampled_from("AZaz09-_"))
def test_a_changed_cursor_is_refused_or_means_the_same(at: int, character: str) -> None:
    changed = CURSOR[:at] + character + CURSOR[at + 1 :]
    try:
        assert CURSORS.read(changed, "list") == POSITION  # the last character carries unused bits
    except CursorInvalid:
        assert changed != CURSOR


@given(st.text(max_size=600))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(CursorInvalid):
        CURSORS.read(text, "list")


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "cursor.key"
    key = secret_key(path)
    assert len(key) == 32
    assert secret_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["cursor.key"]


def test_starting_together_agrees_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "cursor.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: secret_key(path), range(8)))
    assert len(keys) == 1
