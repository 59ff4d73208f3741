"""A TCP proxy that breaks connections where a test tells it to. One thread per connection and direction."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Cut:
    """Breaks the connection on which a client says `needle`: before the server hears it, or before its answer."""

    needle: bytes
    heard: bool


class Proxy:
    """Forwards one loopback port to `host:port`. `cut` is done once and then forgotten.

    `refuse` and `swallow` last until they are taken back: connections end as they begin, or nothing comes through.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.cut: Cut | None = None
        self.cuts = 0
        self.swallow = False
        self._refused = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                if self._refused:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                self._open += [client, server]
                broken = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, broken), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, server, broken), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        with suppress(OSError):
            while piece := client.recv(READ_BYTES):
                if self.swallow:
                    continue
                cut = self.cut
                if cut is not None and cut.needle in piece:
                    self.cut, self.cuts = None, self.cuts + 1
                    broken.set()
                    if not cut.heard:
                        break
                server.sendall(piece)
        _hang_up(client, server)

    def _answers(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        """Until the server hangs up, or has answered what the client shall not hear: it has done it then."""
        with suppress(OSError):
            while piece := server.recv(READ_BYTES):
                if broken.is_set():
                    break
                client.sendall(piece)
        _hang_up(client, server)

    def refuse(self, refused: bool) -> None:
        """Whether the server is away, for those who are connected as well."""
        self._refused = refused
        if refused:
            _hang_up(*self._open)
            self._open.clear()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            each.close()


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(host: str, port: int) -> Iterator[Proxy]:
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
