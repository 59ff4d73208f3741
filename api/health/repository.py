"""Whether what this service needs answers; each check blocks for at most `TIMEOUT_S`."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import httpx
import redis

from api.postgres import Database
from feature_repo.conditions import CURRENT, INDEXERS
from feature_repo.errors import StoreUnavailable

TIMEOUT_S = 2.0

Check = Callable[[], str]  # "up", or what is wrong in few words


def postgres(database: Database) -> Check:
    def check() -> str:
        try:
            database.rows("SELECT FROM decisions LIMIT 0")
        except StoreUnavailable:
            return "down"
        return "up"

    return check


def conditions(database: Database) -> Callable[[], list[dict[str, Any]]]:
    """What jobs and switches say is amiss; nothing where PostgreSQL is away, which its own check says."""

    def ask() -> list[dict[str, Any]]:
        try:
            return database.rows(CURRENT)
        except StoreUnavailable:
            return []

    return ask


def http(url: str) -> Check:
    """Up where `url` answers 200."""

    def check() -> str:
        try:
            response = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
        except httpx.HTTPError:
            return "down"
        return "up" if response.status_code == 200 else "not ready"

    return check


# Processes that listen on no port of their own are known by what they hold.
SESSION = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %s) AS up"
LOCK = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted) AS up"
LIFECYCLE_LOCK = 0x56474C43  # "VGLC", which every lifecycle worker holds


def session(database: Database, application: str) -> Check:
    """Up where a process with a connection to PostgreSQL calls itself so."""
    return _told(database, SESSION, application)


def lifecycle(database: Database) -> Check:
    return _told(database, LOCK, LIFECYCLE_LOCK)


def _told(database: Database, statement: str, value: str | int) -> Check:
    def check() -> str:
        try:
            (found,) = database.rows(statement, [value])
        except StoreUnavailable:
            return "unknown"
        return "up" if found["up"] else "down"

    return check


class Kafka:
    """Through one client, made when it is first asked."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def server(self) -> str:
        from confluent_kafka import KafkaException

        try:
            self._admin.list_topics(timeout=TIMEOUT_S)
        except KafkaException:
            return "down"
        return "up"

    def indexer(self) -> str:
        """Up where its consumer group has a member."""
        from confluent_kafka import KafkaError, KafkaException

        try:
            asked = self._admin.describe_consumer_groups([INDEXERS], request_timeout=TIMEOUT_S)
            group = asked[INDEXERS].result(TIMEOUT_S)
        except KafkaException as error:
            return "down" if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else "unknown"
        except TimeoutError:
            return "unknown"
        return "up" if group.members else "down"

    @cached_property
    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self._bootstrap, "client.id": "vigil-api", "log_level": 0})


def store(url: str) -> Check:
    """Redis."""

    def check() -> str:
        client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        try:
            client.ping()
        except redis.exceptions.RedisError as error:
            return "not ready" if isinstance(error, redis.exceptions.BusyLoadingError) else "down"
        finally:
            client.close()
        return "up"

    return check
