"""The console in a real browser, over real stores: what an analyst does with it, and how it looks.

Screenshots and load times are kept in `.screenshots/`, for people to look at.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from typer.testing import CliRunner

from api.app import create_app
from api.postgres import Database
from api.stats.repository import StatsRepository
from feature_repo.settings import Settings
from pipelines.cli import app as command_line
from tests.cases.console_world import World, decided, outrageous
from tests.cases.keys import bearer
from tests.cases.model_service import running
from tests.services.test_lifecycle import worker

SHOTS = Path(__file__).parents[2] / ".screenshots"
LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 60_000  # how long a machine that does much else may take; nothing here is timed
NAME = "anna"
expect.set_options(timeout=WAIT_MS)
SCOPES = ("read", "search", "labels", "models:promote")


def installed() -> str | None:
    return next((found for name in CHROMIUMS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> str:
    """Its program; installed where it is missing and may be."""
    if installed() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "chromium"], check=False, timeout=600)
    return installed() or pytest.fail("the console is tested in Chromium, and there is none: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """How soon the servers answer a machine that does much else is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("console.live.QUIET_S", "health.service.ANSWER_S", "stats.repository.KAFKA_S"):
            patch.setattr(f"api.{name}", WAIT_MS / 1_000)
        yield


@pytest.fixture(scope="module")
def world(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The only decisions there are: pages show everybody's, and other tests leave some that no stream would make."""
    with psycopg2.connect(stack.postgres_migrator_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE decisions")
    with decided(stack, tmp_path_factory.mktemp("console")) as world:
        yield world


@pytest.fixture(scope="module")
def key(stack: Settings) -> str:
    return key_with(stack, *SCOPES)


def key_with(stack: Settings, *scopes: str) -> str:
    words = [word for scope in scopes for word in ("--scope", scope)]
    done = CliRunner().invoke(
        command_line, ["keys", "create", NAME, *words, "--json"], env={"VIGIL_HOME": str(stack.home)}
    )
    assert done.exit_code == 0, done.output
    made: str = json.loads(done.stdout)["key"]
    return made


@pytest.fixture(scope="module")
def url(world: World, key: str) -> Iterator[str]:
    """The service with every store, asking for keys."""
    with running(create_app(world.settings.model_copy(update={"keys": "on"}))) as url:
        yield url


@contextmanager
def opened(
    browser: Browser, url: str, key: str = "", look: str = "light", size: dict[str, int] = LAPTOP, but: str = "none"
) -> Iterator[Page]:
    """A page, signed in with the key. At its end nothing was asked of another origin, and nothing went wrong `but` what
    the browser is to say of an answer it got."""
    context = browser.new_context(
        base_url=url, viewport=size, color_scheme=look, timezone_id="Europe/Berlin", locale="en-GB",
    )  # fmt: skip
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    elsewhere: list[str] = []
    wrong: list[str] = []
    own = urlsplit(url).netloc

    def asked(request: Any) -> None:
        if not request.url.startswith(("data:", "blob:")) and urlsplit(request.url).netloc != own:
            elsewhere.append(request.url)

    context.on("request", asked)
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    if key:
        sign_in(page, key)
        wrong.clear()
    try:
        yield page
        assert elsewhere == []
        assert [said for said in wrong if but not in said] == []
    finally:
        context.close()


def sign_in(page: Page, key: str, path: str = "/console/health") -> None:
    page.goto(path)
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#main h1")


def shown(page: Page, path: str, ready: str) -> None:
    page.goto(path)
    page.wait_for_selector(ready)


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def service(url: str, key: str) -> Callable[..., Any]:
    def ask(path: str, **parameters: Any) -> Any:
        return httpx.get(f"{url}{path}", params=parameters, headers=bearer(key), timeout=60).raise_for_status().json()

    return ask


@pytest.fixture(scope="module")
def flagged(url: str, key: str) -> dict[str, Any]:
    """The flagged payment with the most reasons."""
    items = service(url, key)("/transactions", is_anomaly="true", limit=50)["items"]
    found: dict[str, Any] = max(items, key=lambda one: len(one["anomaly_reasons"]))
    return found


# ---- what the pages ask that nothing else does ------------------------------------------------------


def test_live_counts_are_those_of_the_ledger(url: str, key: str, world: World) -> None:
    world.decide([outrageous(world)])
    stats = service(url, key)("/stats/live")
    assert stats["waiting"] == 0 and stats["decided_at"] is not None
    assert stats["measured"] == sum(stats["by_outcome"].values()) > 0
    assert stats["flagged"] == sum(count["flagged"] for count in stats["by_model_version"].values()) > 0
    assert 0 < stats["age"]["p50"] <= stats["age"]["p99"]
    assert stats["by_reason"]["unusual_amount_for_user"] > 0


def test_what_was_decided_is_found_in_every_partition(world: World) -> None:
    database = Database(world.settings.postgres_reader_dsn)
    repository, topic = StatsRepository(database), world.settings.topic
    positions = repository.positions(topic)
    assert len(positions) > 1
    for partition, until in positions.items():  # no record of this world is a dead letter
        found = repository.decided(topic, {partition: 0}, datetime.now(UTC))
        assert sum(group["decisions"] for group in found["groups"]) == until > 0
        half = repository.decided(topic, {partition: until // 2}, datetime.now(UTC))
        assert sum(group["decisions"] for group in half["groups"]) == until - until // 2
    database.close()


def test_servers_are_up_or_said_to_be_down(url: str, key: str) -> None:
    states = {one["name"]: one["state"] for one in service(url, key)("/servers")["items"]}
    up = {"kafka", "postgres", "redis", "elasticsearch", "mlflow", "serving", "api", "stream"}
    assert {name for name, state in states.items() if state == "up"} >= up
    assert states["lifecycle"] == "down"


def test_a_trial_counts_each_payment_in_one_cell(url: str, key: str, world: World) -> None:
    ask = service(url, key)
    trial = ask("/models/trial")
    cells = [trial[name] for name in ("both", "only_champion", "only_challenger", "neither")]
    assert (trial["champion"], trial["challenger"]) == ("1", "2")
    assert sum(cell["payments"] for cell in cells) >= len(world.payments)
    assert trial["only_challenger"]["payments"] > 0 == trial["only_champion"]["payments"]  # its scores are higher
    assert ask("/models/champion")["metrics"]["held_out_auc"] == 0.94


# ---- in and out -------------------------------------------------------------------------------------


def test_a_key_opens_the_page_that_was_asked_for_until_one_signs_out(browser: Browser, url: str, key: str) -> None:
    with opened(browser, url) as page:
        page.goto("/console/payments?is_anomaly=true")
        shot(page, "sign-in-light-laptop")
        sign_in(page, key, "/console/payments?is_anomaly=true")
        assert page.url == f"{url}/console/payments?is_anomaly=true"
        expect(page.locator(".who")).to_contain_text(NAME)
        assert key not in page.evaluate("document.cookie")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("alert")).to_have_text("You are signed out.")
        page.goto("/console")
        expect(page.get_by_label("Key")).to_be_visible()


def test_a_key_that_is_not_good_is_told_so(browser: Browser, url: str) -> None:
    with opened(browser, url, but="status of 401") as page:
        page.goto("/console")
        page.get_by_label("Key").fill("vigil_nothing")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")


def test_a_key_without_a_scope_is_told_which_one_is_missing(
    browser: Browser, stack: Settings, url: str, flagged: dict[str, Any]
) -> None:
    with opened(browser, url, key_with(stack, "search")) as page:
        shown(page, "/console", ".trouble")
        expect(page.locator("#main .trouble").first).to_contain_text("lacks the scope read")
        shot(page, "scope-missing-light-laptop")


# ---- every page, as it looks ------------------------------------------------------------------------

PAGES = {
    "live": ("/console", ".tiles", "Live"),
    "payments": ("/console/payments", ".ag-row", "Payments"),
    "search": ("/console/payments?q=online", ".ag-row mark", "Payments"),
    "models": ("/console/models", "#compared table", "Models"),
    "health": ("/console/health", "#health-body table", "Health"),
    "payment": ("", ".contributions", ""),
}


@pytest.mark.parametrize(("look", "size"), [("light", LAPTOP), ("dark", LAPTOP), ("light", PHONE), ("dark", PHONE)])
def test_pages_look_well_and_say_what_they_are(
    browser: Browser, url: str, key: str, flagged: dict[str, Any], look: str, size: dict[str, int]
) -> None:
    where = "phone" if size is PHONE else "laptop"
    loads: dict[str, Any] = {}
    with opened(browser, url, key, look, size) as page:
        for name, (path, ready, title) in PAGES.items():
            path = path or f"/console/payments/{flagged['transaction_id']}"
            shown(page, path, ready)
            loads[name] = page.evaluate(
                "({ready: Math.round(performance.now()),"
                " loaded: Math.round(performance.getEntriesByType('navigation')[0].loadEventEnd)})"
            )
            page.wait_for_timeout(400)  # of animations
            shot(page, f"{name}-{look}-{where}")
            expect(page).to_have_title(f"{title or page.locator('h1').inner_text()} · Vigil")
            assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
            assert page.get_by_role("navigation", name="Pages").is_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, dark[4:-1].split(","))) < 3 * 64) is (look == "dark")
    (SHOTS / f"loads-{look}-{where}.json").write_text(json.dumps(loads, indent=1))  # milliseconds


# ---- find, understand, label ------------------------------------------------------------------------


def test_a_flagged_payment_is_found_understood_and_labelled(
    browser: Browser, url: str, key: str, flagged: dict[str, Any]
) -> None:
    with opened(browser, url, key) as page:
        view = f"/console/payments?user_id={flagged['user_id']}&is_anomaly=true"
        shown(page, view, ".ag-row")
        score = f"{flagged['anomaly_score']:.3f}"  # the user may have been flagged at this merchant before
        page.locator(".ag-row", has_text=flagged["merchant"]).filter(has_text=score).first.click()
        page.wait_for_selector(".reasons")
        assert page.locator(".reasons > li").count() == len(flagged["anomaly_reasons"])
        expect(page.locator("#why")).to_contain_text("Flagged: its score is")
        expect(page.locator("#why li").first).to_contain_text(".")
        expect(page.locator("#timeline")).to_be_visible()
        page.get_by_role("button", name="It was fraud").click()
        expect(page.locator("#label-said")).to_contain_text("Stored: fraud, by anna.")
        expect(page.locator("#labels")).to_contain_text("says anna")
        shot(page, "labelled-light-laptop")
        shown_id = page.locator("code").first.inner_text()
        page.go_back()
        page.wait_for_selector(".ag-row")
        assert page.url == f"{url}{view}"
    (label, *_) = service(url, key)("/labels", transaction_id=shown_id)["items"]
    assert (label["is_fraud"], label["source"]) == (True, NAME)


def test_one_goes_from_flagged_payment_to_flagged_payment(browser: Browser, url: str, key: str) -> None:
    items = service(url, key)("/transactions", is_anomaly="true", limit=3)["items"]
    first, second = (one["transaction_id"] for one in items[:2])
    with opened(browser, url, key) as page:
        shown(page, f"/console/payments/{first}", ".reasons")
        page.get_by_role("button", name="Newer flagged").click()
        expect(page.locator("#step-said")).to_contain_text("no newer flagged payment")
        page.get_by_role("button", name="Older flagged").click()
        page.wait_for_url(f"**/payments/{second}")
        expect(page.locator("#main")).to_contain_text(second)  # until then the buttons are the former page's
        page.get_by_role("button", name="Newer flagged").click()
        page.wait_for_url(f"**/payments/{first}")


def test_filters_live_in_the_url_and_the_file_holds_what_they_find(
    browser: Browser, url: str, key: str, world: World
) -> None:
    world.decide([outrageous(world) | {"merchant": "Online Casino"}])  # some weeks have no such payment to review
    with opened(browser, url, key) as page:
        shown(page, "/console/payments", ".ag-row")
        page.get_by_label("Search", exact=True).fill("online")
        page.get_by_label("Search", exact=True).press("Enter")
        page.wait_for_selector(".ag-row mark")
        assert parse_qs(urlsplit(page.url).query) == {"q": ["online"]}
        expect(page.locator(".facets")).to_contain_text("Approved")
        page.locator(".chip", has_text="To review").click()
        page.wait_for_url("**decision=review**")
        page.get_by_label("From (your time)").fill("2026-01-02T01:00")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**from=**")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
        assert asked == {"q": "online", "decision": "review", "from": "2026-01-02T00:00:00Z"}  # Berlin is an hour ahead
        with page.expect_download() as download:
            page.get_by_role("link", name="Save as NDJSON").click()
        lines = Path(download.value.path()).read_text().splitlines()
        found = service(url, key)("/search", **asked, limit=500)["items"]
        assert [json.loads(line)["transaction_id"] for line in lines] == [one["transaction_id"] for one in found] != []
        page.go_back()
        page.wait_for_function("!location.search.includes('from=')")
        expect(page.get_by_label("From (your time)")).to_have_value("")
        expect(page.get_by_label("Search", exact=True)).to_have_value("online")
        page.get_by_role("button", name="Clear").click()
        page.wait_for_function("location.search === ''")
        page.wait_for_selector(".ag-row")
        page.goto("/console/payments?user_id=nobody")
        expect(page.locator("#told")).to_contain_text("No payment fits these filters")
        page.goto("/console/payments?sort=-amount")
        expect(page.locator("#told .trouble")).to_contain_text("range of 31 days")
        shot(page, "refused-light-laptop")


def test_scrolling_brings_every_payment_once(browser: Browser, url: str, key: str, world: World) -> None:
    with opened(browser, url, key) as page:
        answers: list[Any] = []
        page.on("response", lambda answer: answers.append(answer))

        def blocks() -> set[tuple[str, ...]]:
            """The grid may ask for a block again; another block never holds the same payment."""
            texts = [answer.text() for answer in answers if "_dash-update-component" in answer.url and answer.ok]
            parts = [json.loads(text)["response"].get("grid", {}) for text in texts if "getRowsResponse" in text]
            return {tuple(row["href"] for row in part["getRowsResponse"]["rowData"]) for part in parts}

        shown(page, "/console/payments?sort=event_time", ".ag-row")
        deadline = time.monotonic() + WAIT_MS / 1_000
        while len(found := blocks()) < 3:
            assert time.monotonic() < deadline, f"{len(found)} blocks"
            page.locator(".ag-body-viewport").evaluate("one => one.scrollTo(0, one.scrollHeight)")
            page.wait_for_timeout(400)
    ids = [href for block in found for href in block]
    assert len(ids) == len(set(ids)) > 200


def test_the_console_is_used_with_the_keyboard_alone(browser: Browser, url: str, key: str) -> None:
    with opened(browser, url, key) as page:
        shown(page, "/console/health", "table")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
        while page.evaluate("document.activeElement.textContent") != "Payments":
            page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        page.keyboard.press("Enter")
        page.wait_for_selector(".ag-row")
        expect(page.locator("#main")).to_be_focused()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('#grid') !== null"):
                break
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector("#why")
        assert "/console/payments/" in page.url


def test_alerts_appear_while_the_page_is_open(browser: Browser, url: str, key: str, world: World) -> None:
    payment = outrageous(world)
    with opened(browser, url, key) as page:
        shown(page, "/console", ".tiles")
        expect(page.locator("#stream-state")).to_contain_text("as they come")
        world.decide([payment])
        alert = page.locator(".alerts li", has_text=payment["merchant"]).first
        expect(alert).to_be_visible()
        assert page.locator(".alerts li").count() > 1  # those of before stay
        expect(page.locator(".fresh")).to_contain_text("Newest decision")
        shot(page, "alert-light-laptop")
        alert.get_by_role("link").click()
        expect(page.locator("h1")).to_have_text(f"USD 9,876.50 at {payment['merchant']}")
        expect(page.locator("#why")).to_contain_text("the user's mean of 30 days")


def test_while_elasticsearch_is_away_the_page_says_where_it_searched(browser: Browser, world: World) -> None:
    settings = world.settings.model_copy(update={"elasticsearch_url": "http://127.0.0.1:1"})
    with running(create_app(settings)) as address, opened(browser, address) as page:
        shown(page, "/console/payments?q=online", ".ag-row")
        expect(page.locator("#told")).to_contain_text("Elasticsearch) does not answer")
        shown(page, "/console/health", ".troubles")
        expect(page.locator(".troubles")).to_contain_text("vigil restart elasticsearch")
        shot(page, "degraded-light-laptop")


# ---- compare and promote; last, as it changes which version decides -----------------------------------


def test_two_versions_are_compared_and_one_is_promoted(browser: Browser, url: str, key: str, world: World) -> None:
    with worker(world.settings), opened(browser, url, key) as page:
        shown(page, "/console/models", "#compared table")
        expect(page.locator("#compared")).to_contain_text("0.610")
        expect(page.locator("#compared")).to_contain_text("0.640")
        expect(page.get_by_text("Only the challenger flags")).to_be_visible()
        page.get_by_role("button", name="1 failed, overridden").click()
        expect(page.locator("#gate")).to_contain_text("new users: 0.41 against 0.47")
        shot(page, "gate-light-laptop")
        page.locator("#compare-b").click()
        page.get_by_role("option", name="Version 2").click()
        expect(page).to_have_url(re.compile(r"/console/models\?a=1&b=2$"))
        page.reload()
        expect(page.locator("#compared th", has_text="Version 2")).to_be_visible()

        def promote(reason: str) -> None:
            page.get_by_role("button", name="Promote version 3").click()
            expect(page.get_by_role("dialog")).to_contain_text("Promote version 3?")
            page.get_by_label("Reason to go past failing checks").fill(reason)
            page.get_by_role("button", name="Confirm").click()

        page.get_by_role("button", name="Promote version 3").click()
        shot(page, "dialog-light-laptop")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.get_by_role("button", name="Promote version 3")).to_be_focused()
        promote("")
        expect(page.locator("#request")).to_contain_text("Refused")
        shot(page, "refused-promotion-light-laptop")
        assert "request=" in page.url
        promote("a model of no data set")
        expect(page.locator("#request")).to_contain_text("Version 3 decides now.")
        expect(page.locator("tr", has_text="It decides now")).to_contain_text("3")
        page.wait_for_selector("#compared table")  # made anew with the rest of the page
        shot(page, "promoted-light-laptop")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("dialog")).to_contain_text("Version 1 decides again")
        page.get_by_role("button", name="Confirm").dblclick()  # a second rollback would be the way back
        expect(page.locator("#request")).to_contain_text("Version 1 decides now.")
    assert service(url, key)("/models")["aliases"]["champion"] == "1"


def test_the_interface_is_described_without_the_internet(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.goto("/docs")
        page.wait_for_selector("text=Decisions, newest first")
        shot(page, "docs-light-laptop")
