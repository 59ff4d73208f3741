"""A key as text: `vigil_<id>_<secret>`. The id is shown and stored, of the secret only its SHA-256.

256 random bits cannot be guessed or found by trying hashes, so a slow hash would only slow down every request.
"""

import hashlib
import re
import secrets

ID_BYTES = 6
SECRET_BYTES = 32
_TEXT = re.compile(r"vigil_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)


def make() -> tuple[str, str, bytes]:
    """A new key: its id, its text, its digest."""
    identity, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    return identity, f"vigil_{identity}_{secret}", digest(secret)


def split(text: str) -> tuple[str, bytes] | None:
    """The id and the digest of an offered key; None for what is no key of ours."""
    match = _TEXT.fullmatch(text)
    return None if match is None else (match[1], digest(match[2]))


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
