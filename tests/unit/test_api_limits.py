"""How often and how much may be asked of the query service, and what it tells browsers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from limits import RateLimitItemPerMinute

from api.app import create_app
from api.errors import Busy, HostUnknown, KeyMissing
from api.gate import MAX_BODY_BYTES, Gate, network_of
from api.keys.ring import KeyRing
from api.limits import SHARES, Counters, RateLimiter
from api.scopes import PUBLIC, Scope
from feature_repo.problem import MEDIA_TYPE
from tests.cases.keys import MemoryKeys, bearer
from tests.cases.model_service import running, settings_for

NOBODY = "redis://127.0.0.1:1/0"


class OneMinute:
    """A minute's counts, shared by the limiters that get it."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.questions = 0

    async def take(self, item: RateLimitItemPerMinute, identity: str, cost: int) -> tuple[bool, int, float]:
        await asyncio.sleep(0)
        self.questions += 1
        self.taken[identity] = self.taken.get(identity, 0) + cost
        left = item.amount - self.taken[identity]
        return left >= 0, max(0, left), 60.0


def limiter(counters: Any, per_minute: int, now: list[float] | None = None) -> RateLimiter:
    return RateLimiter(counters, "key", per_minute, (lambda: now[0]) if now else (lambda: 0.0))


@pytest.mark.parametrize("per_minute", [1, 7, 49, 50, 500, 5_000])
def test_two_workers_together_let_in_as_many_as_the_limit_says(per_minute: int) -> None:
    counters = OneMinute()
    workers = [limiter(counters, per_minute) for _ in range(2)]

    async def ask() -> list[bool]:
        asked = [worker.take("one") for _ in range(per_minute + 20) for worker in workers]
        return [left.refused for left in await asyncio.gather(*asked)]

    assert asyncio.run(ask()).count(False) == per_minute
    assert counters.questions <= SHARES + 2  # shares of the whole, and a refusal for each worker


def test_the_next_minute_begins_anew_and_another_key_has_its_own() -> None:
    counters, now = OneMinute(), [0.0]
    worker = limiter(counters, 1, now)
    assert [asyncio.run(worker.take("one")).refused for _ in range(2)] == [False, True]
    assert not asyncio.run(worker.take("other")).refused
    now[0] += 60.1
    counters.taken.clear()
    assert not asyncio.run(worker.take("one")).refused


def test_with_redis_away_a_worker_counts_by_itself() -> None:
    async def ask() -> list[bool]:
        worker = RateLimiter(Counters(NOBODY), "key", 20)
        return [(await worker.take("one")).refused for _ in range(30)]

    assert asyncio.run(ask()) == [False] * 20 + [True] * 10


def test_neighbours_in_an_ipv6_network_are_one_address() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")
    assert len({network_of("10.0.0.1"), network_of("10.0.0.2")}) == 2


# ---- the gate ---------------------------------------------------------------------------------------


def gate(store: MemoryKeys, *, keys_wanted: bool, at_once: int = 10, per_minute: int = 1_000) -> Gate:
    counters = OneMinute()
    per_key, per_address = (RateLimiter(counters, kind, per_minute) for kind in ("key", "address"))
    return Gate(KeyRing(store), per_key, per_address, keys_wanted=keys_wanted, max_requests=at_once)


def connection(**changes: Any) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1:8000")]
    here = {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 5), "method": "GET", "headers": headers}
    return here | {"vigil.headers": []} | changes


async def nothing(*_: Any) -> Any: ...


def test_without_keys_a_connection_from_elsewhere_needs_one_all_the_same() -> None:
    entrance = gate(MemoryKeys(), keys_wanted=False)
    asyncio.run(entrance(Scope.READ, nothing, connection(), nothing, nothing))
    for server in (("10.1.2.3", 8000), ("/run/vigil.sock", None), None):
        with pytest.raises(KeyMissing):
            asyncio.run(entrance(Scope.READ, nothing, connection(server=server), nothing, nothing))


@pytest.mark.parametrize("host", [b"localhost:8000", b"[::1]:8000", b"127.0.0.1", b"[::1]"])
def test_without_keys_this_machine_may_be_called_by_its_names(host: bytes) -> None:
    entrance = gate(MemoryKeys(), keys_wanted=False)
    asyncio.run(entrance(Scope.READ, nothing, connection(headers=[(b"host", host)]), nothing, nothing))


@pytest.mark.parametrize("host", [b"evil.example:8000", b"10.0.0.1", b"", b"localhost.evil.example"])
def test_without_keys_a_page_with_its_own_name_for_us_learns_nothing(host: bytes) -> None:
    entrance = gate(MemoryKeys(), keys_wanted=False)
    with pytest.raises(HostUnknown):
        asyncio.run(entrance(Scope.READ, nothing, connection(headers=[(b"host", host)]), nothing, nothing))


def test_more_than_are_taken_at_once_are_refused_but_health_is_told() -> None:
    async def scene() -> None:
        entrance = gate(MemoryKeys(), keys_wanted=False, at_once=1)
        go_on = asyncio.Event()

        async def slow(*_: Any) -> None:
            await go_on.wait()

        first = asyncio.create_task(entrance(Scope.READ, slow, connection(), nothing, nothing))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await entrance(Scope.READ, nothing, connection(), nothing, nothing)
        await entrance(PUBLIC, nothing, connection(), nothing, nothing)
        go_on.set()
        await first
        await entrance(Scope.READ, nothing, connection(), nothing, nothing)

    asyncio.run(scene())


# ---- over HTTP --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture(scope="module")
def client(store: MemoryKeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Five requests a minute for a key, three for an address; nobody at the addresses of the stores."""
    limits: dict[str, Any] = {"keys": "on", "requests_per_key": 5, "requests_per_address": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.KeyRing", lambda _: KeyRing(store))
        app = create_app(settings_for(tmp_path_factory.mktemp("home"), **limits))
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_too_many_requests_are_told_when_to_come_back(client: httpx.Client, store: MemoryKeys) -> None:
    key, other, console = store.make("search"), store.make("search"), store.make("search")
    answers = [client.get("/search", headers=bearer(key)) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [422] * 5 + [429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0"]
    refused = answers[-1]
    assert (refused.json()["code"], refused.headers["content-type"]) == ("TOO_MANY_REQUESTS", MEDIA_TYPE)
    assert refused.headers["RateLimit-Limit"] == "5"
    assert 0 < int(refused.headers["Retry-After"]) == int(refused.headers["RateLimit-Reset"]) <= 60
    assert client.get("/search", headers=bearer(other)).status_code == 422
    # What the console asks of the service to answer a request is no second one.
    answers = [client.get("/console/search.csv", headers=bearer(console)) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [422] * 5 + [429]
    # Who has no good key is counted by address, whatever is offered.
    codes = [client.get("/search", headers=bearer(MemoryKeys().make("search"))).json()["code"] for _ in range(4)]
    assert codes == ["KEY_REFUSED"] * 3 + ["TOO_MANY_REQUESTS"]
    assert client.get("/live").status_code == 200  # or the flood of one would look like the end of the service
    assert client.get("/search", headers=bearer(other)).status_code == 422


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service as it listens on loopback."""
    with (
        running(create_app(settings_for(tmp_path_factory.mktemp("home")))) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def test_on_loopback_nobody_is_counted(local: httpx.Client) -> None:
    assert "RateLimit-Limit" not in local.get("/live").headers


async def _pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65_536):
        yield b" " * 65_536
    yield b" "


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(local: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}

    async def send(content: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=local.base_url, timeout=30) as client:
            return await client.post("/keys", content=content, headers=headers)

    for content in (b" " * (MAX_BODY_BYTES + 1), _pieces(MAX_BODY_BYTES)):
        answer = asyncio.run(send(content))
        assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
        assert answer.headers["content-type"] == MEDIA_TYPE
    smaller = local.post("/keys", content=b" " * 1_000, headers=headers)
    assert (smaller.status_code, smaller.json()["code"]) == (400, "NOT_JSON")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/live", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/live", 405),
        ("GET", "/search", 422),
        ("GET", "/transactions", 503),
    ],
)
def test_every_answer_tells_the_browser_what_not_to_do(
    local: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = local.request(method, path, headers={"Origin": "https://evil.example"})
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_an_unexpected_error_tells_the_browser_as_well(local: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("api.transactions.repository.TransactionRepository.page", fail)
    answer = httpx.get(local.base_url.join("/transactions"), timeout=30)
    assert (answer.status_code, answer.headers["X-Content-Type-Options"]) == (500, "nosniff")


def test_another_site_is_not_allowed_to_ask(local: httpx.Client) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    answer = local.request("OPTIONS", "/keys/1", headers=asked)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_console_may_run_its_own_scripts_and_nobody_elses(local: httpx.Client) -> None:
    policy = local.get("/console/anything").headers["Content-Security-Policy"]
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'self'" in scripts and "unsafe" not in scripts and "http" not in scripts
