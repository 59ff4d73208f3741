"""Keys in PostgreSQL. A key and its audit row are one statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from api.keys.ring import Key
from api.postgres import Database

SHOWN = "id, name, scopes, created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by"

# Twice is once: the second finds the id taken.
ADD = f"""WITH made AS (
    INSERT INTO api_keys (id, digest, name, scopes, created_by, expires_at)
    VALUES (%(id)s, %(digest)s, %(name)s, %(scopes)s, %(actor)s, %(expires_at)s)
    ON CONFLICT (id) DO NOTHING RETURNING {SHOWN}
), noted AS (
    INSERT INTO audit (actor, action, subject, after)
    SELECT created_by, 'create_key', id, jsonb_build_object('name', name, 'scopes', scopes, 'expires_at', expires_at)
    FROM made
)
SELECT {SHOWN} FROM made UNION ALL SELECT {SHOWN} FROM api_keys WHERE id = %(id)s"""

REVOKE = f"""WITH revoked AS (
    UPDATE api_keys SET revoked_at = now(), revoked_by = %(actor)s WHERE id = %(id)s AND revoked_at IS NULL
    RETURNING {SHOWN}
), noted AS (
    INSERT INTO audit (actor, action, subject, before)
    SELECT revoked_by, 'revoke_key', id, jsonb_build_object('name', name, 'scopes', scopes) FROM revoked
)
SELECT {SHOWN} FROM revoked UNION ALL SELECT {SHOWN} FROM api_keys WHERE id = %(id)s AND revoked_at IS NOT NULL"""

NOTE_USE = """UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
    FROM unnest(%(ids)s::text[], %(times)s::timestamptz[]) AS used (id, at) WHERE api_keys.id = used.id
    RETURNING api_keys.id"""


class KeyRepository:
    """Blocks; raises StoreUnavailable."""

    def __init__(self, writing: Database) -> None:
        self._writing = writing

    def add(
        self, identity: str, digest: bytes, name: str, scopes: Sequence[str], expires_at: datetime | None, actor: str
    ) -> dict[str, Any]:
        values = {"id": identity, "digest": digest, "name": name, "scopes": list(scopes), "expires_at": expires_at}
        (row,) = self._writing.rows(ADD, {**values, "actor": actor})
        return row

    def revoke(self, identity: str, actor: str) -> dict[str, Any] | None:
        """The revoked key, also where it was revoked before; None for an unknown id."""
        found = self._writing.rows(REVOKE, {"id": identity, "actor": actor})
        return found[0] if found else None

    def all(self) -> list[dict[str, Any]]:
        """Newest first."""
        return self._writing.rows(f"SELECT {SHOWN} FROM api_keys ORDER BY created_at DESC, id")

    def in_use(self) -> list[Key]:
        rows = self._writing.rows(
            """SELECT id, digest, name, scopes, expires_at FROM api_keys
            WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"""
        )
        return [Key(**{**row, "digest": bytes(row["digest"]), "scopes": frozenset(row["scopes"])}) for row in rows]

    def note_use(self, used: dict[str, datetime]) -> None:
        self._writing.rows(NOTE_USE, {"ids": list(used), "times": list(used.values())})
