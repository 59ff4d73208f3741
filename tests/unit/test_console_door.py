"""The way into the console: who gets in, how a session begins and ends, and what another site can make a browser do."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.console.door import COOKIE, own_page
from api.console.filters import NAMES
from api.headers import CONSOLE
from api.keys.ring import KeyRing
from api.scopes import Scope
from tests.cases.keys import MemoryKeys
from tests.cases.model_service import running, settings_for

PAGE = {"Accept": "text/html,*/*"}
WITHIN = ("/console", "/console/", "/console/payments", "/console/_dash-layout", "/console/_dash-dependencies",
          "/console/_dash-update-component", "/console/stream", "/console/transactions.csv",
          "/console/_dash-component-suites/dash/deps/x.js", "/console/loginx", "/console/assets",
          "/console/login/x", "/console//x")  # fmt: skip


@pytest.fixture(scope="module")
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture(scope="module")
def keys(store: MemoryKeys) -> dict[str, str]:
    """Made before anybody asks: a ring looks for new ones once a second."""
    return {scope: store.make(scope) for scope in (Scope.READ, Scope.SEARCH, Scope.ADMIN)}


@pytest.fixture(scope="module")
def url(store: MemoryKeys, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service asking for keys, with nobody at the addresses of its stores."""
    own: dict[str, Any] = {"keys": "on", "postgres_dsn": "postgresql://x@127.0.0.1:1/x"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.KeyRing", lambda _: KeyRing(store))
        app = create_app(settings_for(tmp_path_factory.mktemp("home"), **own))
    with running(app) as url:
        yield url


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, headers=PAGE) as client:
        yield client


def signed_in(browser: httpx.Client, key: str, **more: str) -> httpx.Response:
    return browser.post("/console/login", data={"key": key, **more})


@pytest.mark.parametrize("path", WITHIN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_within_is_answered_without_a_key(url: str, method: str, path: str) -> None:
    answer = httpx.request(method, f"{url}{path}", json={}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (401, "KEY_MISSING")
    cookies = {COOKIE: MemoryKeys().make(Scope.ADMIN)}
    stranger = httpx.request(method, f"{url}{path}", json={}, cookies=cookies, timeout=30)
    assert (stranger.status_code, stranger.json()["code"]) == (401, "KEY_REFUSED")


def test_a_page_without_a_key_leads_to_the_form_and_back(browser: httpx.Client, keys: dict[str, str]) -> None:
    asked = browser.get("/console/payments?is_anomaly=true")
    assert asked.status_code == 303
    form = browser.get(asked.headers["location"])
    assert form.status_code == 200 and 'name="key"' in form.text
    assert 'value="/console/payments?is_anomaly=true"' in form.text
    done = signed_in(browser, keys[Scope.READ], next="/console/payments?is_anomaly=true")
    assert (done.status_code, done.headers["location"]) == (303, "/console/payments?is_anomaly=true")
    words = {word.strip().lower() for word in done.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/console"} <= words and "secure" not in words
    page = browser.get("/console/payments")
    assert page.status_code == 200 and "_dash-config" in page.text
    assert page.headers["content-security-policy"] == CONSOLE and "unsafe-eval" not in CONSOLE
    assert page.headers["referrer-policy"] == "same-origin"  # else a browser posts the form with Origin: null


def test_any_good_key_opens_the_frame_and_its_scope_what_is_in_it(browser: httpx.Client, keys: dict[str, str]) -> None:
    signed_in(browser, keys[Scope.SEARCH])
    assert browser.get("/console").status_code == 200
    refused = browser.get("/console/transactions.csv")
    assert (refused.status_code, refused.json()["scope"]) == (403, "read")


def test_a_key_that_is_not_good_is_told_so_and_sets_nothing(browser: httpx.Client) -> None:
    refused = signed_in(browser, MemoryKeys().make(Scope.ADMIN))
    assert refused.status_code == 401 and "unknown, expired or revoked" in refused.text
    assert "set-cookie" not in refused.headers
    assert signed_in(browser, "x" * 10_000).status_code == 401


def test_a_revoked_key_ends_the_session_with_a_plain_sentence(browser: httpx.Client, keys: dict[str, str]) -> None:
    signed_in(browser, keys[Scope.READ])
    del browser.cookies[COOKIE]
    browser.cookies.set(COOKIE, MemoryKeys().make(Scope.READ), path="/console")
    ended = browser.get("/console")
    assert ended.status_code == 303 and "max-age=0" in ended.headers["set-cookie"].lower()
    form = httpx.get(f"{browser.base_url}{ended.headers['location']}", headers=PAGE, timeout=30)
    assert "revoked by now" in form.text


def test_signing_out_forgets_the_key(browser: httpx.Client, keys: dict[str, str]) -> None:
    signed_in(browser, keys[Scope.READ])
    out = browser.post("/console/logout")
    assert out.status_code == 303 and COOKIE not in browser.cookies
    assert browser.get("/console").status_code == 303
    assert browser.get("/console/logout").headers["location"] == "/console"  # a link signs nobody out


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                {"Origin": "null"}]
)  # fmt: skip
@pytest.mark.parametrize("path", ["/console/login", "/console/logout", "/console/_dash-update-component"])
def test_another_site_cannot_make_a_browser_post(
    browser: httpx.Client, keys: dict[str, str], path: str, headers: dict[str, str]
) -> None:
    signed_in(browser, keys[Scope.ADMIN])
    refused = browser.post(path, json={}, headers={**headers, "Accept": "*/*"})
    assert (refused.status_code, refused.json()["code"]) == (403, "FOREIGN_SITE")


def test_a_link_in_a_mail_asks_once_more_from_our_own_page(browser: httpx.Client) -> None:
    asked = browser.get("/console/payments?q=%22x", headers={"Sec-Fetch-Site": "cross-site"})
    assert asked.status_code == 200 and 'content="0;url=/console/payments?q=%22x"' in asked.text


def test_over_plain_http_only_this_machine_can_sign_in(browser: httpx.Client, keys: dict[str, str]) -> None:
    key = keys[Scope.READ]
    refused = browser.post("/console/login", data={"key": key}, headers={"Host": "vigil.example"})
    assert refused.status_code == 403 and "https" in refused.text and "set-cookie" not in refused.headers
    behind_tls = {"Host": "vigil.example", "Origin": "https://vigil.example"}
    assert (
        "; secure"
        in browser.post("/console/login", data={"key": key}, headers=behind_tls).headers["set-cookie"].lower()
    )


@pytest.mark.parametrize(
    ("target", "goes"),
    [
        ("/console/models?a=1", "/console/models?a=1"), ("/console", "/console"), ("//evil.example", "/console"),
        ("https://evil.example", "/console"), ("/console\\evil", "/console"), ("/consoles", "/console"),
        ("/console/a\r\nSet-Cookie: x", "/console"), ("/transactions", "/console"),
    ],
)  # fmt: skip
def test_after_signing_in_only_a_page_of_the_console_follows(target: str, goes: str) -> None:
    assert own_page(target) == goes


def test_tries_to_sign_in_count_against_the_address(store: MemoryKeys, tmp_path: Any) -> None:
    own: dict[str, Any] = {"keys": "on", "postgres_dsn": "postgresql://x@127.0.0.1:1/x", "requests_per_address": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.KeyRing", lambda _: KeyRing(store))
        app = create_app(settings_for(tmp_path, **own))
    key = store.make(Scope.READ)
    with running(app) as url:
        tries = [httpx.post(f"{url}/console/login", data={"key": key}, headers=PAGE, timeout=30) for _ in range(5)]
    assert [answer.status_code for answer in tries] == [303, 303, 303, 429, 429]
    assert int(tries[-1].headers["ratelimit-limit"]) == 3 and "too many requests" in tries[-1].text.lower()


def test_without_keys_wanted_the_console_just_opens(tmp_path: Any) -> None:
    app = create_app(settings_for(tmp_path))
    with running(app) as url, httpx.Client(base_url=url, timeout=30, headers=PAGE) as browser:
        assert browser.get("/console").status_code == 200
        assert browser.get("/console/login").headers["location"] == "/console"
        assert browser.get("/console", headers={"Host": "evil.example"}).status_code == 421
        layout = browser.get("/console/_dash-layout").text
        assert "Sign out" not in layout
        script = browser.get("/console/assets/console.js").text
    # The names of filters stand in the script as well: it writes them into the URL.
    assert ", ".join(f'"{name}"' for name in NAMES) in " ".join(script.split())
