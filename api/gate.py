"""Who may come in, how often, and how many at once: asked before anything of a request is read."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from api.errors import BodyTooLarge, Busy, HostUnknown, KeyMissing, KeyRefused, ScopeMissing, TooManyRequests
from api.keys.ring import Key, KeyRing
from api.limits import RateLimiter
from api.scopes import ANY_KEY, Needs
from feature_repo.settings import is_loopback

LOCAL = "api"  # who asks, where no key is needed
COUNTED = "vigil.counted"  # in the connection of what the console asks for a request that was counted itself
MAX_BODY_BYTES = 1 << 20  # of any request; a path that takes one payment or label stops reading sooner
IPV6_NETWORK = 64  # bits: what one subscriber is given, and can change addresses in


class Gate:
    """Asks for a key where `keys_wanted`, and always on a connection that did not come in by loopback.

    A request counts against its key, or against its address where it has no good one; what the console asks of this
    service to answer one does not count again. Without keys (on loopback) nothing is counted, but a host name that is
    not this machine's is refused: a page of the internet that has its own name point here could read along otherwise.
    """

    def __init__(
        self, ring: KeyRing, per_key: RateLimiter, per_address: RateLimiter, *, keys_wanted: bool, max_requests: int
    ) -> None:
        self._ring = ring
        self._per_key = per_key
        self._per_address = per_address
        self._keys_wanted = keys_wanted
        self._max_requests = max_requests
        self._inside = 0

    async def __call__(self, needs: Needs, app: ASGIApp, connection: Connection, receive: Receive, send: Send) -> None:
        """Pass the request on to `app`.

        Raises KeyMissing, KeyRefused, ScopeMissing, TooManyRequests, BodyTooLarge, Busy, HostUnknown;
        StoreUnavailable where keys cannot be read.
        """
        if self.wants_key(connection):
            if needs:  # health is told at any time: a probe may share its address with a flood
                await self._admit(needs, connection)
        elif is_loopback(_host(connection)):
            connection["vigil.actor"] = LOCAL
        else:
            raise HostUnknown
        if needs and self._inside >= self._max_requests:
            raise Busy
        if connection["method"] != "GET":
            receive = _bounded(connection, receive)
        self._inside += bool(needs)  # what asks for no key must not keep out what does
        try:
            await app(connection, receive, send)
        finally:
            self._inside -= bool(needs)

    def wants_key(self, connection: Connection) -> bool:
        return self._keys_wanted or not is_loopback((connection.get("server") or ("",))[0])

    async def still_good(self, connection: Connection) -> bool:
        """Whether the key of a request that was let in still is; one that needed none stays good."""
        identity = connection.get("vigil.key")
        return identity is None or await self._ring.still_good(identity)

    async def sign_in(self, offered: str, connection: Connection) -> Key | None:
        """The key, None where it is not good. Every try counts against the address, also a good one.

        Raises TooManyRequests; StoreUnavailable where keys cannot be read.
        """
        await self._count(self._per_address, _network(connection), connection)
        return await self._ring.find(offered)

    async def _admit(self, needs: Needs, connection: Connection) -> None:
        offered = _bearer(connection)
        key = await self._ring.find(offered) if offered else None
        if not connection.get(COUNTED):
            limiter, identity = (self._per_key, key.id) if key else (self._per_address, _network(connection))
            await self._count(limiter, identity, connection)
            connection[COUNTED] = True
        if key is None:
            raise KeyRefused if offered else KeyMissing
        connection["vigil.key"], connection["vigil.actor"] = key.id, key.actor
        if needs and needs != ANY_KEY and not key.may(needs):
            raise ScopeMissing(needs)

    async def _count(self, limiter: RateLimiter, identity: str, connection: Connection) -> None:
        left = await limiter.take(identity)
        connection["vigil.headers"] += left.headers
        if left.refused:
            raise TooManyRequests(left.resets_in_s)


def _bounded(connection: Connection, receive: Receive) -> Receive:
    """The body as it comes, up to MAX_BODY_BYTES. Raises BodyTooLarge, at once where the length is told."""
    length = _header(connection, b"content-length")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise BodyTooLarge
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise HTTPException(413)  # of what fails while FastAPI reads a body, it lets only this kind through
        return message

    return counted


def _header(connection: Connection, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in connection["headers"] if key == name), "")


def _bearer(connection: Connection) -> str:
    kind, _, value = _header(connection, b"authorization").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _host(connection: Connection) -> str:
    """The name this service is called by, without its port."""
    host = _header(connection, b"host")
    return host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host


def _network(connection: Connection) -> str:
    return network_of((connection.get("client") or ("",))[0])


@lru_cache(4_096)
def network_of(address: str) -> str:
    """What is counted as one address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    return str(ip_network((parsed, IPV6_NETWORK), strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)
