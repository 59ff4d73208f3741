"""`GET /metrics` of a process without a web server of its own: the stream, the indexer, the lifecycle worker.

The model service and the query service show theirs beside their other paths. A label takes few values, all known
beforehand or made by us: never a user, a payment, a card number, an address or a path.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server

from feature_repo.errors import BadConfiguration


@contextmanager
def served(bind: str, port: int) -> Iterator[CollectorRegistry]:
    """A registry, shown at `http://bind:port/metrics` until the block ends.

    Raises BadConfiguration where somebody else listens there.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    try:
        server, thread = start_http_server(port, bind, registry)
    except OSError as error:
        raise BadConfiguration(
            f"metrics cannot be served at {bind}:{port}: {error.strerror}",
            remedy="give a second process of this kind a port of its own: VIGIL_..._METRICS_PORT",
        ) from error
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
