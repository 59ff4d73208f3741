"""The nine steps against the real PostgreSQL and Redis, with connections that break where it hurts most."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg2
import psycopg2.extensions
import pytest
import redis

from feature_repo.errors import DependencyDown, Fenced, StateBehind, StateLost
from feature_repo.keys import state_keys
from feature_repo.settings import Settings
from streaming.ledger import Ledger
from streaming.partition import Road
from streaming.scoring import Pins
from streaming.states import StateStore
from tests.cases.proxy import Cut, Proxy, proxied
from tests.unit.road_fakes import PIN, FakeChallenger, FakePublisher, score_by_amount
from tests.unit.test_road import NOW_US, World, payment, records
from tests.unit.test_road_machine import decided

SEED = 20261127
ROUNDS, RANGE = 40, 25
USERS = [f"u{n}" for n in range(7)]
REDIS_DATABASE = 1  # the stack's own is 0
# What a client says at the point of no return: COMMIT to PostgreSQL, EXEC to Redis.
POINTS = {"postgres": b"COMMIT", "redis": b"EXEC"}


@dataclass
class Site:
    """The real stores behind proxies, under a topic of its own."""

    settings: Settings
    proxies: dict[str, Proxy]

    def road(self) -> Road:
        return Road(
            self.settings,
            Ledger(self.settings.postgres_dsn, self.settings.topic),
            StateStore(self.settings.redis_url, timeout_s=5.0),
            FakePublisher(),  # type: ignore[arg-type]  # the fake has the same methods
            score_by_amount,
            FakeChallenger(),
            clock=lambda: NOW_US / 1e6,
        )


@pytest.fixture
def site(stack: Settings) -> Iterator[Site]:
    dsn = psycopg2.extensions.parse_dsn(stack.postgres_dsn)
    cache = urlsplit(stack.redis_url)
    with (
        proxied(dsn["host"], int(dsn["port"])) as postgres,
        proxied(cache.hostname or "", cache.port or 0) as cached,
    ):
        through = {"host": postgres.address[0], "port": postgres.address[1], "sslmode": "disable"}
        secret = f":{cache.password}@" if cache.password else ""
        changes = {
            "topic": f"faults-{uuid4().hex[:8]}",
            "partitions": 1,
            "postgres_dsn": psycopg2.extensions.make_dsn(**{**dsn, **through}),
            "redis_url": f"redis://{secret}{cached.address[0]}:{cached.address[1]}/{REDIS_DATABASE}",
        }
        settings = stack.model_copy(update=changes)
        client = redis.Redis.from_url(settings.redis_url)
        client.flushdb()
        try:
            yield Site(settings, {"postgres": postgres, "redis": cached})
        finally:
            client.flushdb()
            client.close()


def rows(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(sql, (settings.topic,))
        return cursor.fetchall()


def test_a_postgresql_that_is_frozen_is_away_after_a_deadline(site: Site) -> None:
    ledger = Ledger(site.settings.postgres_dsn, site.settings.topic, within_s=1.0)
    assert ledger.claim(0, str(uuid4())).untouched
    site.proxies["postgres"].swallow = True  # its machine keeps the line up
    with pytest.raises(DependencyDown):
        ledger.claim(0, str(uuid4()))
    site.proxies["postgres"].swallow = False
    assert ledger.claim(0, str(uuid4())).committed == 0


def test_connections_cut_around_commit_and_exec_decide_every_offset_once(site: Site) -> None:
    chance = random.Random(SEED)
    log: list[bytes | None] = [
        payment(chance.randrange(300), user=chance.choice(USERS), amount=chance.choice([5.0, 20.0, 900.0]))
        for _ in range(ROUNDS * RANGE)
    ]
    road, first = site.road(), 0
    for _ in range(ROUNDS):
        name = chance.choice(sorted(POINTS))
        site.proxies[name].cut = Cut(POINTS[name], heard=chance.random() < 0.5)
        while True:
            try:
                road.take(records(log[first : first + RANGE], first), Pins(PIN), frozenset(), None)
                break
            except DependencyDown:
                if chance.random() < 0.3:
                    road = site.road()  # a new process takes the partition over
        first += RANGE
    assert sum(proxy.cuts for proxy in site.proxies.values()) == ROUNDS

    calm = World(site.settings)
    calm.take(log)
    found = {
        offset: (outcome, bytes(features) if features else None, late)
        for offset, outcome, features, late in rows(
            site.settings, "SELECT kafka_offset, outcome, features, late FROM decisions WHERE kafka_topic = %s"
        )
    }
    buried = rows(site.settings, "SELECT kafka_offset, code FROM dead_letters WHERE kafka_topic = %s")
    expected = decided(calm)
    (total,) = rows(site.settings, "SELECT count(*) FROM decisions WHERE kafka_topic = %s")
    assert total[0] + len(buried) == len(log) == len(expected)
    for offset, (outcome, *rest) in expected.items():
        if offset in found:
            features, late = rest[0], rest[1]
            assert found[offset] == ((outcome or b"").decode(), features, late == b"\x01"), offset
        else:
            assert (offset, (outcome or b"").decode()) in buried
    client = redis.Redis.from_url(site.settings.redis_url)
    stored = dict(zip(USERS, client.mget(state_keys(USERS, 0)), strict=True))  # type: ignore[arg-type]
    client.close()
    assert stored == calm.states.records


def test_a_job_that_slept_while_another_decided_is_fenced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, rival = site.road(), site.road()
    claim = slow._states.claim

    def claim_then_sleep(*args: Any, **kwargs: Any) -> int | None:
        folded = claim(*args, **kwargs)
        rival.take(records([payment(1), payment(2)]), Pins(PIN), frozenset(), None)
        return folded

    monkeypatch.setattr(slow._states, "claim", claim_then_sleep)
    with pytest.raises(Fenced):
        slow.take(records([payment(1), payment(2)]), Pins(PIN), frozenset(), None)
    assert rows(site.settings, "SELECT count(*) FROM decisions WHERE kafka_topic = %s") == [(2,)]


@pytest.mark.parametrize("older", [False, True], ids=["emptied", "from an older snapshot"])
def test_a_redis_that_lost_states_after_the_claim_gives_nobody_an_empty_history(
    site: Site, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    road, client = site.road(), redis.Redis.from_url(site.settings.redis_url)
    road.take(records([payment(1)]), Pins(PIN), frozenset(), None)
    backup: dict[Any, Any] = {key: client.get(key) for key in client.scan_iter()}
    claim = road._states.claim

    def claim_then_lose(*args: Any, **kwargs: Any) -> int | None:
        folded = claim(*args, **kwargs)
        client.flushdb()
        if older:
            client.mset(backup)
        return folded

    with monkeypatch.context() as patch:
        patch.setattr(road._states, "claim", claim_then_lose)
        with pytest.raises(Fenced if older else DependencyDown):
            road.take(records([payment(2)], 1), Pins(PIN), frozenset(), None)
    assert rows(site.settings, "SELECT count(*) FROM decisions WHERE kafka_topic = %s") == [(1,)]
    if older:
        road.take(records([payment(2)], 1), Pins(PIN), frozenset(), None)
    else:
        with pytest.raises(StateLost):
            road.take(records([payment(2)], 1), Pins(PIN), frozenset(), None)
    client.close()


def test_states_that_redis_restored_under_a_running_job_are_refused_and_then_caught_up(site: Site) -> None:
    log: list[bytes | None] = [payment(n) for n in range(4)]
    road, client = site.road(), redis.Redis.from_url(site.settings.redis_url)

    def take(first: int, until: int) -> None:
        road.take(records(log[first:until], first), Pins(PIN), frozenset(), None)

    take(0, 1)
    backup: dict[Any, Any] = {key: client.get(key) for key in client.scan_iter()}
    take(1, 3)
    client.flushdb()
    client.mset(backup)
    with pytest.raises(StateBehind):
        take(3, 4)
    take(1, 4)
    calm = World(site.settings)
    calm.take(log)
    assert client.get(state_keys(["u1"], 0)[0]) == calm.states.records["u1"]
    client.close()


def test_a_row_that_postgres_itself_refuses_is_buried_and_its_neighbours_are_decided(site: Site) -> None:
    with psycopg2.connect(site.settings.postgres_migrator_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE decisions ADD CONSTRAINT poison CHECK (location <> 'Nowhere') NOT VALID")
    try:
        values: list[bytes | None] = [payment(n, location="Nowhere" if n in (5, 42) else "New York") for n in range(60)]
        taken = site.road().take(records(values), Pins(PIN), frozenset(), None)
    finally:
        with psycopg2.connect(site.settings.postgres_migrator_dsn) as connection, connection.cursor() as cursor:
            cursor.execute("ALTER TABLE decisions DROP CONSTRAINT poison")
    assert taken.outcomes == {"scored": 58, "PROCESSING_FAILED": 2}
    buried = rows(site.settings, "SELECT kafka_offset, code, detail FROM dead_letters WHERE kafka_topic = %s")
    why = "PostgreSQL refused the row (SQLSTATE 23514)"
    assert sorted(buried) == [(5, "PROCESSING_FAILED", why), (42, "PROCESSING_FAILED", why)]
