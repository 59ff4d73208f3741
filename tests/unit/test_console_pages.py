"""Pieces of the console's pages, made without a browser: what they say of which answer of the service."""

import asyncio
from datetime import UTC
from typing import Any

import pytest
from dash import no_update

from api.console import health, live, models, payment, payments
from api.console.client import Reader, Refused, zone

WHO = Reader(UTC, "anna (key 1f9c2ab4c0de)", True)


def text(part: Any) -> str:
    """All that somebody reads of a piece."""
    if part is None or isinstance(part, bool):
        return ""
    if isinstance(part, list | tuple):
        return " ".join(text(one) for one in part)
    return text(part.children) if hasattr(part, "children") else "" if hasattr(part, "id") else str(part)


# ---- live -------------------------------------------------------------------------------------------

STATS: dict[str, Any] = {
    "at": "2026-11-27T12:00:00Z", "decided_at": "2026-11-27T11:59:58Z", "waiting": None, "unindexed": 3,
    "per_second": 0.4, "stretches": [], "measured": 20, "age": None, "flagged": 2, "by_decision": {}, "by_outcome": {},
    "by_reason": {}, "by_model_version": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("decided_at", "says", "dimmed"),
    [
        ("2026-11-27T11:59:58Z", "Newest decision 2 s ago", False),
        ("2026-11-27T11:51:00Z", "No data since 27 Nov 2026, 11:51:00 (9 min)", True),
        (None, "No payment has been decided yet", True),
    ],
)
def test_old_numbers_are_not_shown_as_if_they_were_of_now(decided_at: str | None, says: str, dimmed: bool) -> None:
    stats = STATS | {"decided_at": decided_at}
    assert text(live.freshness(stats, WHO)).startswith(says)
    assert ("old" in live.tiles(stats).className) is dimmed


def test_what_is_not_known_is_said_to_be_so() -> None:
    assert "not known" in text(live.tiles(STATS))
    assert "not known: Kafka" in text(health.waiting(STATS, WHO))


def test_servers_that_are_down_are_named_with_what_to_do() -> None:
    server = {"name": "redis", "state": "down", "means": "payments wait in Kafka", "remedy": "vigil restart redis"}
    servers = {"items": [server, {**server, "name": "mlflow", "state": "up"}], "degraded": []}
    told = text(health.degraded(servers, WHO))
    assert "redis" in told and "vigil restart redis" in told and "mlflow" not in told
    assert "redis" in text(live.amiss(servers))
    assert "Nothing is degraded" in text(live.amiss({"items": [], "degraded": []}))


# ---- payments ---------------------------------------------------------------------------------------


class Service:
    """Pages of so many payments, of which some come shorter than was asked for."""

    def __init__(self, count: int, short: int) -> None:
        self.count, self.short, self.asked = count, short, 0

    async def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        self.asked += 1
        start = int(parameters.get("cursor") or 0)
        end = min(self.count, start + min(parameters["limit"], self.short))
        return {"items": list(range(start, end)), "next_cursor": str(end) if end < self.count else None}


@pytest.mark.parametrize("short", [100, 37])
def test_blocks_of_the_grid_follow_each_other_without_gap_or_repetition(short: int) -> None:
    service, cursors = Service(250, short), {}
    found: list[int] = []
    for start in (0, 100, 200):
        answer, cursors = asyncio.run(payments.block(service, {}, start, cursors))  # type: ignore[arg-type]
        found += answer["items"]
    assert found == list(range(250)) and answer["next_cursor"] is None


def test_a_block_whose_cursor_is_lost_is_reached_from_the_beginning() -> None:
    answer, cursors = asyncio.run(payments.block(Service(250, 100), {}, 200, {}))  # type: ignore[arg-type]
    assert answer["items"] == list(range(200, 250)) and set(cursors) == {"100", "200"}


def test_a_search_that_fell_back_to_the_table_says_so() -> None:
    answer = {"source": "postgresql", "searched_since": "2026-11-20T00:00:00Z", "matched": "exact", "facets": None}
    told = text(payments.told(answer, {"q": "x", "sort": "amount"}, 0, 0))
    assert "Elasticsearch) does not answer" in told and "2026-11-20 00:00:00 UTC" in told
    assert "the order does not count" in told and "No payment fits" in told
    similar = text(payments.told({"matched": "similar", "facets": None}, {"q": "x"}, 0, 4))
    assert "differ by a letter" in similar and "No payment fits" not in similar


# ---- one payment ------------------------------------------------------------------------------------

ONE: dict[str, Any] = {
    "outcome": "scored", "is_anomaly": True, "anomaly_score": 0.91, "anomaly_reasons": ["new_merchant_for_user"],
    "reason_shares": [0.5], "currency": "USD", "decision": "review", "unscored_reason": None, "evidence": None,
}  # fmt: skip
DOWN = Refused({"code": "DEPENDENCY_DOWN", "detail": "the model service does not answer", "request_id": "r1"})


def test_why_is_told_with_and_without_the_numbers() -> None:
    found = {"reason": "new_merchant_for_user", "measure": "earlier payments, none at this merchant", "value": 50.0,
             "usual": None, "unit": "payments", "direction": "new"}  # fmt: skip
    told = text(payment.why(ONE, {"threshold": 0.8, "evidence": [found]}))
    assert "Flagged : its score is 0.910 of 1; from 0.800 on" in told
    assert "None of the user's 50 earlier payments was at this merchant." in told
    assert "no longer loaded" in text(payment.why(ONE, DOWN))
    unscored = {**ONE, "outcome": "unscored", "unscored_reason": "MODEL_DOWN"}
    assert "There is no score: MODEL_DOWN" in text(payment.why(unscored, DOWN))
    ordinary = {**ONE, "is_anomaly": False, "anomaly_reasons": []}
    assert "Nothing about it was unusual" in text(payment.why(ordinary, DOWN))


def test_a_refusal_is_a_sentence_with_the_requests_id() -> None:
    told = text(payment.contributions(DOWN))
    assert "The model service does not answer." in told and "request r1" in told


@pytest.mark.parametrize(
    ("ids", "shown", "then"),
    [(["a", "b", "c"], "a", "b"), (["a"], "a", None), ([], "a", None), (["b"], "a", "b"), (["x", "a", "b"], "a", "b")],
)
def test_the_flagged_payment_behind_this_one_follows(ids: list[str], shown: str, then: str | None) -> None:
    assert payment.following(ids, shown) == then


# ---- models -----------------------------------------------------------------------------------------

REQUEST: dict[str, Any] = {
    "id": 7, "state": "finished", "action": "promote", "version": "3", "actor": "anna", "outcome": "refused",
    "detail": "the gate refuses it: slices", "aliases_after": None,
    "report": {"checks": [{"name": "slices", "passed": False, "detail": "0.41 against 0.47"}]},
}  # fmt: skip


def test_a_request_is_followed_to_its_end() -> None:
    assert "waiting for the lifecycle worker" in text(models.following({**REQUEST, "state": "waiting"}))
    refused = text(models.following(REQUEST))
    assert "Refused." in refused and "0.41 against 0.47" in refused and "The gate refuses it" in refused
    moved = {**REQUEST, "outcome": "moved", "aliases_after": {"champion": "3"}, "report": None}
    assert "Version 3 decides now." in text(models.following(moved))


class Answers:
    """What a service says, by path; a path it does not know is refused for a moment."""

    def __init__(self, **known: Any) -> None:
        self.known = known

    async def get(self, path: str, **_: Any) -> Any:
        if path.rpartition("/")[2] not in self.known:
            raise Refused({"code": "STORE_UNAVAILABLE", "status": 503, "detail": "PostgreSQL does not answer"})
        return self.known[path.rpartition("/")[2]]


def test_a_refusal_that_passes_ends_no_request() -> None:
    told, page = asyncio.run(models.looked(Answers(), WHO, "7"))  # type: ignore[arg-type]
    assert "PostgreSQL does not answer" in text(told) and page is no_update
    told, page = asyncio.run(models.looked(Answers(**{"7": REQUEST}), WHO, "7"))  # type: ignore[arg-type]
    assert "PostgreSQL does not answer" in text(told) and page is no_update  # finished, and the versions are refused
    assert models.pending(Refused({"status": 429})) and not models.pending(Refused({"status": 404}))


def test_every_payment_of_the_timeline_is_a_link_beside_it() -> None:
    def paid(identity: str, minute: int, flagged: bool) -> dict[str, Any]:
        return {"transaction_id": identity, "event_time": f"2026-11-27T12:{minute:02}:00Z", "amount": 2.5,
                "currency": "USD", "merchant": "Shop", "is_anomaly": flagged}  # fmt: skip

    one = paid("b", 2, True)
    items = payment.listed(one, [paid("a", 1, False), paid("c", 3, True)], WHO).children
    assert [getattr(item.children, "href", None) for item in items] == [
        "/console/payments/c", None, "/console/payments/a",
    ]  # fmt: skip
    assert text(items[0]) == "27 Nov 2026, 12:03:00 · USD 2.50 · Shop · flagged"


def test_the_champion_is_compared_with_the_newest_other_one() -> None:
    names = ["3", "2", "1"]
    assert models.chosen({}, {"champion": "1", "challenger": "2"}, names) == ("1", "2")
    assert models.chosen({}, {"champion": "1"}, names) == ("1", "3")
    assert models.chosen({"a": "2", "b": "3"}, {"champion": "1"}, names) == ("2", "3")
    assert models.chosen({}, {}, []) == (None, None)


@pytest.mark.parametrize("name", ["", "Nowhere/City", "../../etc/passwd", "Europe/Berlin%00", "\x00"])
def test_a_time_zone_nobody_knows_is_utc(name: str) -> None:
    assert zone(name) is UTC
    assert str(zone("Europe%2FBerlin")) == "Europe/Berlin"
