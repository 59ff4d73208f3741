"""The way into the console: the key in a cookie, signing in and out, and what is handed on to the service itself."""

import html
import re
from contextvars import ContextVar
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from api.errors import ForeignSite, KeyMissing, KeyRefused, SecureNeeded
from api.gate import Gate
from api.routes import GuardedPart
from feature_repo.errors import VigilError
from feature_repo.settings import is_loopback

PATH = "/console"
LOGIN, LOGOUT, ASSETS = f"{PATH}/login", f"{PATH}/logout", f"{PATH}/assets/"
COOKIE = "vigil_key"
# What a browser takes from the service itself, which it could not show its cookie to.
FILES = [f"/{name}.{form}" for name in ("transactions", "search") for form in ("csv", "ndjson")]
HANDED_ON = {f"{PATH}{path}": path for path in ("/stream", *FILES)}
MAX_FORM_BYTES = 4_096
WHY = {
    "refused": "The key you were signed in with is unknown, expired or revoked by now. Sign in with another one.",
    "out": "You are signed out.",
}

current: ContextVar[Connection] = ContextVar("console")  # the browser's request that is being answered


class Door(GuardedPart):
    """`pages` is the application behind it."""

    def __init__(self, pages: ASGIApp) -> None:
        super().__init__(PATH, self._inside, (LOGIN, LOGOUT, ASSETS))
        self._pages = pages

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        key = cookie(scope, COOKIE)
        if key and not Headers(scope=scope).get("authorization"):
            scope["headers"] = [*scope["headers"], (b"authorization", b"Bearer " + key.encode("latin-1", "replace"))]
        try:
            require_own_site(scope)
            await super().handle(scope, receive, send)
        except VigilError as error:
            answer = refused(error, scope)
            if answer is None:
                raise
            await answer(scope, receive, send)

    async def _inside(self, scope: Connection, receive: Receive, send: Send) -> None:
        path = scope["path"]
        token = current.set(scope)
        try:
            if path == LOGIN:
                await (await sign_in(scope, receive))(scope, receive, send)
            elif path == LOGOUT:
                await sign_out(scope)(scope, receive, send)
            elif path in HANDED_ON and scope["method"] == "GET":
                target = HANDED_ON[path]
                await scope["app"]({**scope, "path": target, "raw_path": target.encode()}, receive, send)
            elif path.startswith((f"{PATH}/_", ASSETS)):
                await self._pages(dict(scope), receive, send)
            else:  # every page is the same document, which then asks for its own
                await self._pages({**scope, "path": f"{PATH}/", "raw_path": f"{PATH}/".encode()}, receive, send)
        finally:
            current.reset(token)


def cookie(scope: Connection, name: str) -> str:
    """Its value, empty where there is none."""
    try:
        found = SimpleCookie(Headers(scope=scope).get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def require_own_site(scope: Connection) -> None:
    """Raises ForeignSite for what the page of another site sends. Reading is safe: it cannot see the answer."""
    headers = Headers(scope=scope)
    if scope["method"] in ("GET", "HEAD"):
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # no page can make that up
        own = site in ("same-origin", "none")
    else:
        own = origin is None or urlsplit(origin).netloc == headers.get("host", "")
    if not own:
        raise ForeignSite


def refused(error: VigilError, scope: Connection) -> Response | None:
    """What a browser that wants a page gets to see instead; None for whoever does not."""
    headers = Headers(scope=scope)
    if "text/html" not in headers.get("accept", ""):
        return None
    if isinstance(error, KeyMissing | KeyRefused) and scope["method"] == "GET":
        target = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
        if isinstance(error, KeyMissing) and headers.get("sec-fetch-site") == "cross-site":
            # A link in a mail: the cookie does not come along. It does when our own page asks again.
            return HTMLResponse(document("Vigil", f'<meta http-equiv="refresh" content="0;url={html.escape(target)}">'))
        why = {"why": "refused"} if isinstance(error, KeyRefused) else {}
        return without_cookie(RedirectResponse(f"{LOGIN}?{urlencode({**why, 'next': target})}", 303), scope)
    request_id = html.escape(str(scope.get("vigil.request_id", "")))
    body = f"<p>{html.escape(sentence(error.message))}</p><p class=fine>Request {request_id}</p>"
    body += f'<p><a href="{PATH}">To the console</a></p>'
    return HTMLResponse(document(error.code.replace("_", " ").capitalize(), body), error.status)


async def sign_in(scope: Connection, receive: Receive) -> Response:
    """The form, or what becomes of it. Raises TooManyRequests, SecureNeeded; StoreUnavailable."""
    gate: Gate = scope["app"].state.gate
    asked = parse_qs(scope["query_string"].decode("latin-1"))
    onward = own_page(asked.get("next", [PATH])[0])
    if not gate.wants_key(scope):
        return RedirectResponse(onward, 303)
    if scope["method"] != "POST":
        return HTMLResponse(form(onward, WHY.get(asked.get("why", [""])[0], "")))
    secure = is_secure(scope)
    if not secure and not is_loopback(urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""):
        raise SecureNeeded
    given = parse_qs(await form_body(receive))
    offered, onward = given.get("key", [""])[0].strip(), own_page(given.get("next", [PATH])[0])
    key = await gate.sign_in(offered, scope)
    if key is None:
        return HTMLResponse(form(onward, "This key is unknown, expired or revoked."), 401)
    answer = RedirectResponse(onward, 303)
    answer.set_cookie(COOKIE, offered, path=PATH, secure=secure, httponly=True, samesite="strict")
    return answer


def sign_out(scope: Connection) -> Response:
    return without_cookie(RedirectResponse(f"{LOGIN}?why=out" if scope["method"] == "POST" else PATH, 303), scope)


def without_cookie(answer: Response, scope: Connection) -> Response:
    if cookie(scope, COOKIE):
        answer.delete_cookie(COOKIE, path=PATH, secure=is_secure(scope), httponly=True, samesite="strict")
    return answer


def is_secure(scope: Connection) -> bool:
    """Whether the browser came by https, as it says itself: TLS may end before us."""
    origin = Headers(scope=scope).get("origin", "")
    return origin.startswith("https://") or scope["scheme"] == "https"


def own_page(target: str) -> str:
    """A path of the console to go on with; anything else becomes its first page."""
    return target if re.fullmatch(rf"{PATH}(?:[/?][^\\\x00-\x20]*)?", target) else PATH


async def form_body(receive: Receive) -> str:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_FORM_BYTES:
            return ""
        if not message.get("more_body", False):
            return body.decode("latin-1")


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def form(onward: str, said: str) -> str:
    told = f'<p role="alert" class="said">{html.escape(said)}</p>' if said else ""
    return document(
        "Sign in",
        f'<form method="post" action="{LOGIN}">{told}<input type="hidden" name="next" value="{html.escape(onward)}">'
        '<label for="key">Key</label>'
        '<input id="key" name="key" type="password" autocomplete="current-password" required autofocus'
        ' placeholder="vigil_…" spellcheck="false"><button class="button strong" type="submit">Sign in</button></form>'
        "<p class=fine>An administrator makes keys: <code>vigil keys create NAME --scope read --scope search</code>. "
        "Where this page came by plain http from another machine, signing in is refused: put TLS in front.</p>",
    )


def document(title: str, body: str) -> str:
    """A page without scripts."""
    style = quote(f"{ASSETS}console.css")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,'
        f' initial-scale=1"><meta name="color-scheme" content="light dark"><title>{html.escape(title)} · Vigil</title>'
        f'<link rel="icon" href="{ASSETS}vigil.svg" type="image/svg+xml"><link rel="stylesheet" href="{style}"></head>'
        f'<body class="alone"><main class="card"><p class="brand">Vigil</p><h1>{html.escape(title)}</h1>{body}'
        "</main></body></html>"
    )
