"""Which version serves: the checks before the alias moves, the move, and its line in the audit log."""

from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
from psycopg2.extras import Json

from feature_repo.errors import (
    ArtifactCorrupt,
    BadConfiguration,
    FeatureSetMismatch,
    PromotionRefused,
    StoreUnavailable,
)
from feature_repo.settings import Settings
from pipelines.versions import CHAMPION, PREVIOUS, Versions

CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Promotion:
    """What the aliases say now; `changed` is false where the version served already."""

    version: str
    previous: str | None
    changed: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def promote(settings: Settings, version: str, actor: str) -> Promotion:
    """Make `version` (a number, `latest` or an alias) the champion; the champion so far becomes `previous`.

    Raises BadConfiguration for an unknown version, PromotionRefused naming the failed checks.
    """
    versions = Versions(settings)
    chosen = versions.resolve(version)
    _refuse_unsound(versions, chosen)
    aliases = versions.aliases()
    champion = aliases.get(CHAMPION)
    if champion == chosen:
        return Promotion(chosen, aliases.get(PREVIOUS), changed=False)
    _move(settings, versions, "promote", actor, before=aliases, champion=chosen, previous=champion)
    return Promotion(chosen, champion, changed=True)


def rollback(settings: Settings, actor: str) -> Promotion:
    """Make `previous` the champion again; the two change places, so a rollback can be rolled back.

    Raises BadConfiguration without a previous version, PromotionRefused where its artefact is unsound.
    """
    versions = Versions(settings)
    aliases = versions.aliases()
    champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if previous is None or champion is None or previous == champion:
        raise BadConfiguration("there is no previous champion to go back to", remedy="vigil models")
    _refuse_unsound(versions, previous)
    _move(settings, versions, "rollback", actor, before=aliases, champion=previous, previous=champion)
    return Promotion(previous, champion, changed=True)


def _refuse_unsound(versions: Versions, version: str) -> None:
    """Integrity only: sha256, manifest, weights, graph, golden rows, and features this build computes."""
    try:
        versions.load(version)
    except ArtifactCorrupt as error:
        raise PromotionRefused(version, [f"{error.check} ({error.what})"]) from error
    except FeatureSetMismatch as error:
        raise PromotionRefused(version, [f"feature_set ({error})"]) from error


def _move(
    settings: Settings,
    versions: Versions,
    action: str,
    actor: str,
    *,
    before: dict[str, str],
    champion: str,
    previous: str | None,
) -> None:
    """Both aliases, inside the transaction of the audit row: no move goes unrecorded, and none is half done.

    `previous` first: should the second call fail, champion and previous name the same sound version.
    """
    after = {**before, CHAMPION: champion} | ({PREVIOUS: previous} if previous else {})
    row = (actor, action, settings.model_name, Json(before), Json(after))
    try:
        connection = psycopg2.connect(settings.postgres_dsn, connect_timeout=CONNECT_TIMEOUT_S)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO audit (actor, action, subject, before, after) VALUES (%s, %s, %s, %s, %s)", row
                )
                if previous:
                    versions.point(PREVIOUS, previous)
                versions.point(CHAMPION, champion)
        finally:
            connection.close()
    except psycopg2.OperationalError as error:
        host = psycopg2.extensions.parse_dsn(settings.postgres_dsn).get("host", "localhost")
        raise StoreUnavailable("PostgreSQL", str(host), str(error).strip()) from error
