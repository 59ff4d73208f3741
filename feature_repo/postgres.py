"""What every connection to PostgreSQL has in common."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2.extensions

# A server that vanished without a word is noticed within half a minute, whether we wait or send.
LIVENESS: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


@contextmanager
def within(connection: psycopg2.extensions.connection, seconds: float) -> Iterator[None]:
    """Breaks the connection under a block that takes longer, which then fails as with a server that went away.

    A server that is frozen answers no query, keeps no deadline of its own, and its machine still keeps the line up.
    """
    line = os.dup(connection.fileno())  # ours until it is closed below, whatever becomes of the connection
    timer = threading.Timer(seconds, _hang_up, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        os.close(line)


def _hang_up(line: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(line)) as heard:
        heard.shutdown(socket.SHUT_RDWR)
