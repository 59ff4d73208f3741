"""Brings the schema of PostgreSQL up to date. Two at once are safe, a second run changes nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from feature_repo.errors import BadConfiguration, StoreUnavailable
from feature_repo.settings import Settings
from infra.sql.grants import GRANTS, statements

LOCK = 0x5649474C  # "VIGL": one migration at a time, whoever starts it
CONNECT_TIMEOUT_S = 5


def upgrade(settings: Settings) -> str:
    """Applies the missing versions, the grants and the partitions of yesterday to the day after tomorrow.

    All in one transaction behind an advisory lock. Returns the revision the schema is at.
    Raises StoreUnavailable where the server or the role does not answer, BadConfiguration where the
    database was made by a newer release.
    """
    dsn = settings.postgres_migrator_dsn
    engine = create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="vigil-migrate"),
        poolclass=NullPool,
    )
    try:
        with engine.begin() as connection:
            return _upgrade(connection)
    except OperationalError as error:
        cause = str(error.orig).strip().splitlines()[0]
        raise StoreUnavailable("PostgreSQL", _address(dsn), cause, remedy="vigil up") from error
    except CommandError as error:
        raise BadConfiguration(
            f"the database was not made by this release: {error}", remedy="install the newer release"
        ) from error


def _upgrade(connection: Connection) -> str:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    roles = connection.scalars(
        text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles)"), {"roles": list(GRANTS)}
    )
    for statement in statements(set(roles)):
        connection.execute(text(statement))
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    connection.execute(text("SELECT ensure_decision_partitions(:day, 4)"), {"day": yesterday})
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _address(dsn: str) -> str:
    """Host, port and database of a DSN: never its password."""
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}"
