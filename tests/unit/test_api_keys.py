"""Who may ask the query service what: every path with every scope, and keys as they come and go."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from api.alerts.service import HEARTBEAT_S
from api.app import create_app
from api.gate import Gate
from api.keys import ring, secret
from api.keys.ring import KeyRing
from api.openapi import describe
from api.routes import Router, ScopeUndeclared
from api.scopes import Scope
from feature_repo.errors import StoreUnavailable
from feature_repo.problem import MEDIA_TYPE
from feature_repo.settings import Settings
from tests.cases.keys import MemoryKeys, bearer
from tests.cases.model_service import running, settings_for


@pytest.fixture(scope="module")
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture(scope="module")
def client(store: MemoryKeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service asking for keys, with nobody at the addresses of its stores."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"),
        keys="on",
        requests_per_address=10_000,
        postgres_dsn="postgresql://x@127.0.0.1:1/x",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.KeyRing", lambda _: KeyRing(store))
        app = create_app(settings)
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


# ---- every path, every scope ------------------------------------------------------------------------

NOT_JSON = {"Content-Type": "text/plain"}  # what is let through goes no further than this, or a store that is down


def operations(client: httpx.Client) -> list[tuple[str, str, str | None]]:
    """(method, path with examples in it, scope or None) of the OpenAPI document."""
    found = []
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                path = path.replace(f"{{{parameter['name']}}}", "1")
            scopes = [scope for one in operation["security"] for scope in one["key"]]
            found.append((method.upper(), path, *(scopes or [None])))
    return found


def test_every_path_lets_in_the_keys_with_its_scope_and_no_others(client: httpx.Client, store: MemoryKeys) -> None:
    keys = {str(scope): store.make(scope) for scope in Scope}
    stranger = MemoryKeys().make(Scope.ADMIN)
    asked = operations(client)
    for method, path, needed in asked:
        where = f"{method} {path}"
        if needed is None:
            assert client.request(method, path).status_code not in (401, 403), where
            continue
        for headers, code in (
            ({}, "KEY_MISSING"),
            (bearer(stranger), "KEY_REFUSED"),
            ({"Authorization": "Basic eA=="}, "KEY_MISSING"),
        ):
            refused = client.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, code), where
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        for scope, key in keys.items():
            answer = client.request(method, path, headers=NOT_JSON | bearer(key))
            if scope in (needed, Scope.ADMIN):
                assert answer.status_code not in (401, 403), f"{where} with {scope}"
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "SCOPE_MISSING"), f"{where} with {scope}"
                assert answer.json()["scope"] == needed and needed in answer.json()["detail"]
    assert {scope for *_, scope in asked} == {None, *Scope}


def test_only_health_is_answered_without_a_key(client: httpx.Client) -> None:
    assert {path for _, path, scope in operations(client) if scope is None} == {"/live", "/ready"}


def test_keys_and_the_audit_log_are_for_admins(client: httpx.Client) -> None:
    admins = {(method, path) for method, path, scope in operations(client) if scope == Scope.ADMIN}
    keys = {("GET", "/keys"), ("POST", "/keys"), ("DELETE", "/keys/1")}
    assert admins == keys | {("GET", "/audit"), ("PUT", "/switches/1")}


def test_a_route_without_a_scope_cannot_be_made() -> None:
    with pytest.raises(ScopeUndeclared, match="/open"):
        Router().get("/open")(lambda: None)


def test_a_route_that_asks_no_gate_keeps_the_service_from_starting() -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    routes = APIRouter()
    routes.get("/open")(lambda: None)
    app.include_router(routes)
    with pytest.raises(ScopeUndeclared, match="/open"):
        describe(app)


def test_what_a_path_needs_is_asked_before_its_body_is_read(client: httpx.Client) -> None:
    answer = client.post("/keys", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, MEDIA_TYPE)


@pytest.mark.parametrize(("keys", "bind", "wanted"), [
    ("auto", "127.0.0.1", False), ("auto", "::1", False), ("auto", "localhost", False), ("on", "127.0.0.1", True),
    ("auto", "0.0.0.0", True), ("auto", "192.168.1.7", True), ("auto", "::", True), ("auto", "api.example", True),
])  # fmt: skip
def test_keys_are_wanted_beyond_loopback(keys: str, bind: str, wanted: bool) -> None:
    assert Settings(keys=keys, bind=bind).keys_wanted is wanted


# ---- what a key looks like --------------------------------------------------------------------------


def test_of_a_key_only_the_digest_of_its_secret_is_kept() -> None:
    identity, text, digest = secret.make()
    own = text.removeprefix(f"vigil_{identity}_")
    assert len(own) == 43  # 256 bits in base64
    assert digest == hashlib.sha256(own.encode()).digest()
    assert secret.split(text) == (identity, digest)


@pytest.mark.parametrize(
    "text", ["", "vigil_", "vigil_0123456789ab_short", "x" * 10_000, "vigil_0123456789aé_" + "x" * 43]
)
def test_what_is_no_key_costs_no_look_into_the_store(text: str) -> None:
    store = MemoryKeys()
    assert asyncio.run(KeyRing(store).find(text)) is None
    assert store.readings == 0


# ---- keys as workers know them ----------------------------------------------------------------------


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_key_is_good_for_its_own_secret_only(clock: Clock) -> None:
    store = MemoryKeys()
    text = store.make("read")
    keys = KeyRing(store, clock)
    found = asyncio.run(keys.find(text))
    assert found is not None and found.may(Scope.READ) and not found.may(Scope.SEARCH)
    other = text[:-1] + ("a" if text[-1] != "a" else "b")
    assert asyncio.run(keys.find(other)) is None


def test_a_revoked_key_is_refused_within_a_minute(clock: Clock) -> None:
    store = MemoryKeys()
    text = store.make("read")
    keys = KeyRing(store, clock)
    assert asyncio.run(keys.find(text))
    store.kept.clear()
    clock.now += ring.FRESH_S + 0.1
    assert asyncio.run(keys.find(text)) is None
    assert ring.FRESH_S < 60


def test_a_new_key_is_known_a_second_later(clock: Clock) -> None:
    store = MemoryKeys()
    keys = KeyRing(store, clock)
    asyncio.run(keys.find(MemoryKeys().make("read")))
    text = store.make("read")
    assert asyncio.run(keys.find(text)) is None  # else a flood of made-up keys would be one of questions
    clock.now += ring.NEW_S + 0.1
    assert asyncio.run(keys.find(text))


def test_an_expired_key_is_refused_from_its_moment_on(clock: Clock) -> None:
    store = MemoryKeys()
    now = datetime.now(UTC)
    past, future = (store.make("read", expires_at=now + timedelta(hours=hours)) for hours in (-1, 1))
    keys = KeyRing(store, clock)
    assert asyncio.run(keys.find(past)) is None
    assert asyncio.run(keys.find(future))


def test_without_postgres_known_keys_are_good_for_less_than_a_minute_and_then_none_is(clock: Clock) -> None:
    store = MemoryKeys()
    text = store.make("read")
    keys = KeyRing(store, clock)
    asyncio.run(keys.find(text))
    store.down = True
    clock.now += ring.OLD_S
    assert asyncio.run(keys.find(text))
    clock.now += 0.1
    with pytest.raises(StoreUnavailable):
        asyncio.run(keys.find(text))
    assert ring.OLD_S < 60
    store.down = False
    clock.now += ring.RETRY_S
    assert asyncio.run(keys.find(text))


def test_uses_are_noted_together_and_survive_an_outage(clock: Clock) -> None:
    store = MemoryKeys()
    one, other = store.make("read"), store.make("search")
    keys = KeyRing(store, clock)

    async def use() -> None:
        for _ in range(100):
            await keys.find(one)
        await keys.find(other)

    asyncio.run(use())
    assert store.readings == 1 and not store.used
    store.down = True
    asyncio.run(keys.flush())
    store.down = False
    clock.now += ring.RETRY_S
    asyncio.run(keys.flush())
    (noted,) = store.used
    assert set(noted) == set(store.kept)
    asyncio.run(keys.flush())
    assert len(store.used) == 1


@pytest.mark.parametrize("end", ["revoked", "expired", "unreadable"])
def test_a_key_in_use_stays_good_until_it_is_revoked_or_expires_or_nobody_can_tell(clock: Clock, end: str) -> None:
    store = MemoryKeys()
    text = store.make("read")
    (identity,) = store.kept
    keys = KeyRing(store, clock)
    assert asyncio.run(keys.find(text))
    clock.now += ring.FRESH_S + 0.1
    assert asyncio.run(keys.still_good(identity))
    match end:
        case "revoked":
            store.kept.clear()
        case "expired":
            past = datetime.now(UTC) - timedelta(seconds=1)
            store.kept[identity] = replace(store.kept[identity], expires_at=past)
        case "unreadable":
            store.down = True
    clock.now += ring.OLD_S + 0.1
    assert not asyncio.run(keys.still_good(identity))


def test_a_revoked_key_closes_the_stream_it_opened(
    client: httpx.Client, store: MemoryKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def quiet(*_: Any) -> tuple[AsyncIterator[bytes], AsyncExitStack]:
        async def beats() -> AsyncIterator[bytes]:
            while True:
                yield b": nothing new\n\n"
                await asyncio.sleep(0.02)

        return beats(), AsyncExitStack()

    monkeypatch.setattr("api.alerts.service.AlertService.follow", quiet)
    monkeypatch.setattr(ring, "FRESH_S", 0.05)
    monkeypatch.setattr(ring, "NEW_S", 0.0)
    text = store.make(Scope.READ)
    with client.stream("GET", "/stream", headers=bearer(text)) as response:
        pieces = response.iter_bytes()
        for _ in range(10):
            next(pieces)
        del store.kept[text.split("_")[1]]
        assert all(piece.startswith(b": nothing new") for piece in pieces)  # up to its end
    assert HEARTBEAT_S + ring.OLD_S < 60


def test_without_keys_a_stream_is_never_ended() -> None:
    gate = Gate(KeyRing(MemoryKeys()), None, None, keys_wanted=False, max_requests=1)  # type: ignore[arg-type]
    assert asyncio.run(gate.still_good({"vigil.actor": "api"}))


def test_a_service_that_cannot_read_its_keys_lets_nobody_in(tmp_path: Path) -> None:
    nowhere: dict[str, Any] = {"postgres_dsn": "postgresql://x@127.0.0.1:1/x", "keys": "on"}
    app = create_app(settings_for(tmp_path, **nowhere))
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = client.get("/transactions", headers=bearer(MemoryKeys().make("admin")))
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert client.get("/live").status_code == 200
