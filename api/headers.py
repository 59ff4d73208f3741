"""What a browser is told with every answer, unless the answer says otherwise itself."""

from starlette.types import Scope

API = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# FastAPI's page of the interface: a script of its own in the page, Swagger UI beside it. It shows no data.
DOCS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# Dash starts itself by one line of script in its page, named here by its hash; Plotly and AG Grid write style
# attributes and draw images into data: and blob:.
DASH_START = "'sha256-jZlsGVOhUAIcH+4PVs7QuGZkthRMgvT2n0ilH6/zTM0='"
CONSOLE = (
    f"default-src 'self'; script-src 'self' {DASH_START}; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
POLICIES = {"/console": CONSOLE, "/docs": DOCS}  # by the first part of the path

ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),  # payments are nobody's to keep on the way
]
# Without a referrer a browser would not say either that a form of the console came from its own page (Origin: null).
OWN = {CONSOLE: [(b"referrer-policy", b"same-origin")]}
BY_POLICY = {
    policy: [
        *OWN.get(policy, []),
        *(header for header in ALWAYS if header[0] not in dict(OWN.get(policy, []))),
        (b"content-security-policy", policy.encode()),
    ]
    for policy in (API, DOCS, CONSOLE)
}


def protect(headers: list[tuple[bytes, bytes]], connection: Scope) -> None:
    """Add the request's own (its id, its limit) and those for every answer, where they are not there yet."""
    path: str = connection["path"]
    end = path.find("/", 1)
    policy = POLICIES.get(path if end < 0 else path[:end], API)
    present = {name for name, _ in headers}
    offered = (*connection.get("vigil.headers", ()), *BY_POLICY[policy])
    headers += [header for header in offered if header[0] not in present]
