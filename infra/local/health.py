"""Is a server answering? Each check takes at most a few seconds and returns None, or why not."""

import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlparse

Check = Callable[[], str | None]
TIMEOUT_S = 3.0


def http(url: str) -> str | None:
    """A 2xx answer within the timeout."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            response.read()
    except urllib.error.HTTPError as error:
        return f"answered {error.code}: {_problem(error)}"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _problem(error: urllib.error.HTTPError) -> str:
    """The code of a problem+json answer, else the reason phrase."""
    try:
        return str(json.loads(error.read(4096))["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


def elasticsearch(url: str) -> str | None:
    return http(f"{url}/_cluster/health?wait_for_status=yellow&timeout=1s")


def redis(url: str) -> str | None:
    address = urlparse(url)
    try:
        with socket.create_connection((address.hostname or "", address.port or 6379), TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(256)
    except OSError as error:
        return str(error)
    return None if answer.startswith(b"+PONG") else answer.decode(errors="replace").strip()


def postgres(dsn: str) -> str | None:
    import psycopg2

    try:
        connection = psycopg2.connect(dsn, connect_timeout=int(TIMEOUT_S))
    except psycopg2.OperationalError as error:
        return str(error).strip().splitlines()[-1]
    connection.close()
    return None


def kafka(bootstrap: str) -> str | None:
    """The broker answers a metadata request and counts itself alive."""
    host, port = bootstrap.split(":")
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except OSError as error:
        return str(error)
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = logging.Logger("kafka-health", logging.CRITICAL)
    try:
        cluster = AdminClient({"bootstrap.servers": bootstrap}, logger=quiet).list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        return str(error.args[0].str())
    return None if cluster.brokers else "no broker has registered yet"


def running() -> str | None:
    """For a process without a port: that it runs is all there is to see."""
    return None
