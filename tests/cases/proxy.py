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
    """Forwards one loopback port to `host:port`. `cut` is done once and then forgotten."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.cut: Cut | None = None
        self.cuts = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        try:
            while piece := source.recv(READ_BYTES):
                cut = self.cut
                if from_client and cut is not None and cut.needle in piece:
                    self.cut, self.cuts = None, self.cuts + 1
                    if cut.heard:
                        sink.sendall(piece)
                        sink.recv(1)  # it has answered, so it has done it; nobody will read the rest
                    break
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            each.close()


@contextmanager
def proxied(host: str, port: int) -> Iterator[Proxy]:
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
