"""Where a page of results ends: opaque, signed, and good only for the query it was given for."""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from api.errors import CursorInvalid

KEY_BYTES = 32
TAG_BYTES = 16  # of HMAC-SHA256: 128 bits cannot be guessed
MAX_CHARACTERS = 512


class Cursors:
    """Makes and reads cursors with one secret key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, position: list[Any], query: str) -> str:
        """`position`: JSON values of the last row shown; `query`: names the filters it was shown for."""
        payload = json.dumps(position, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._tag(payload, query) + payload).rstrip(b"=").decode()

    def read(self, cursor: str, query: str) -> list[Any]:
        """The position. Raises CursorInvalid for anything but a cursor made for this query."""
        if len(cursor) > MAX_CHARACTERS:
            raise CursorInvalid
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise CursorInvalid from None
        tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(payload, query)):
            raise CursorInvalid
        position: list[Any] = json.loads(payload)  # ours: the tag says so
        return position

    def _tag(self, payload: bytes, query: str) -> bytes:
        message = hashlib.sha256(query.encode()).digest() + payload
        return hmac.digest(self._key, message, "sha256")[:TAG_BYTES]


def secret_key(path: Path) -> bytes:
    """The key in that file, made (mode 0600) where there is none. Safe with several processes at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(f".{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
        path.hardlink_to(part)
    except FileExistsError:
        pass  # another process was first: its key counts
    finally:
        part.unlink(missing_ok=True)
    return path.read_bytes()
