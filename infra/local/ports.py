"""Choose the stack's ports: the usual ones, or free ones where something else holds them."""

import contextlib
import errno
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from feature_repo.settings import Settings

HOST = "127.0.0.1"
DEFAULTS = {
    "kafka": 9092,
    "kafka_controller": 9093,
    "postgres": 5432,
    "redis": 6379,
    "elasticsearch": 9200,
    "elasticsearch_transport": 9300,
    "mlflow": 5000,
    "serving": 3000,
    "api": 8000,
    "spark_ui": 4040,
    "stream_metrics": 9464,
    "indexer_metrics": 9465,
    "lifecycle_metrics": 9466,
}
INTERNAL = ("serving", "spark_ui", "stream_metrics", "indexer_metrics", "lifecycle_metrics")  # on `internal_bind`
Ports = dict[str, int]


@dataclass(frozen=True)
class Taken:
    """A usual port someone else holds, and the one chosen instead."""

    name: str
    port: int
    holder: str
    chosen: int

    def __str__(self) -> str:
        return f"port {self.port} of {self.name} is taken by {self.holder}; using {self.chosen}"


def choose(mode: str, earlier: Ports) -> tuple[Ports, list[Taken]]:
    """A free port for every name. `earlier` are those of the last start: kept where still free.

    In `random` mode the usual ports are left alone, so several stacks can run side by side.
    """
    ports: Ports = {}
    taken = []
    for name, usual in DEFAULTS.items():
        if mode != "random" and _usable(usual, ports):
            ports[name] = usual
            continue
        kept = earlier.get(name)
        ports[name] = kept if kept and _usable(kept, ports) else free_port(other_than=ports.values())
        if mode != "random":
            taken.append(Taken(name, usual, holder(usual), ports[name]))
    return ports, taken


def reached_at(settings: Settings, name: str) -> str:
    """The host in a server's URL: the address it listens on, or loopback where it listens on all."""
    bound = settings.bind if name == "api" else settings.internal_bind if name in INTERNAL else HOST
    try:
        address = ip_address(bound)
    except ValueError:
        return bound  # a name
    if address.version == 6:
        return "[::1]" if address.is_unspecified else f"[{address}]"  # all of IPv6 alone: asyncio keeps IPv4 out
    return HOST if address.is_unspecified else bound


def _usable(port: int, ports: Ports) -> bool:
    return port not in ports.values() and is_free(port)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no holder
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port(other_than: Collection[int] = ()) -> int:
    """A port nobody holds now, below the range the kernel hands to outgoing connections.

    A port from that range could be taken by any client between choosing and binding.
    """
    import random

    low, high = 20_000, _ephemeral_start()
    for _ in range(200):
        port = random.randrange(low, high)
        if port not in other_than and is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port between {low} and {high}")


def _ephemeral_start() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:  # noqa: PTH123
            start = int(file.read().split()[0])
    except OSError:
        return 32_768
    return start if start > 21_000 else 65_536


def listeners(port: int) -> list[psutil.Process]:
    """Who listens on the port, as far as this account may see."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("inet"):
            its_port = getattr(connection.laddr, "port", None)  # absent where the address is empty
            if connection.status == psutil.CONN_LISTEN and its_port == port and connection.pid:
                found[connection.pid] = psutil.Process(connection.pid)
    return list(found.values())


def holder(port: int) -> str:
    """Who listens on the port, for a message."""
    for process in listeners(port):
        with contextlib.suppress(psutil.Error):
            return f"{process.name()} (pid {process.pid})"
    return "another program"
