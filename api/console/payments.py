"""The payments page: every decision, filtered or searched for, page by page as somebody scrolls."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dash_ag_grid
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from api.console import filters, frame, words
from api.console.client import Client, Reader, Refused, moment, reader
from api.console.door import PATH

BLOCK = 100  # rows asked for at a time
FAR = 50 * BLOCK  # rows that a single request is followed down without a cursor
ROW_PX = 56

CHOICES: dict[str, dict[str, str]] = {
    "decision": words.DECISIONS,
    "is_anomaly": {"true": "Flagged", "false": "Not flagged"},
    "reason": dict(words.REASONS),
    "outcome": {"scored": "Scored", "unscored": "Without a score", "duplicate": "Repeated"},
    "sort": words.SORTS,
}
LABELS = {
    "q": "Search", "from": "From (your time)", "to": "Until (your time)", "user_id": "User",
    "min_amount": "Amount from", "max_amount": "Amount to", "decision": "Decision", "is_anomaly": "Flagged",
    "reason": "Reason", "merchant": "Merchant", "location": "Place", "payment_method": "Payment method",
    "model_version": "Model version", "outcome": "Outcome", "sort": "Order",
}  # fmt: skip
COLUMNS: list[dict[str, Any]] = [
    {"headerName": "Time", "field": "event_time", "cellRenderer": "VigilTime", "width": 160},
    {"headerName": "Amount", "field": "amount_text", "width": 120, "cellClass": "right", "headerClass": "right"},
    {"headerName": "Where", "field": "merchant", "cellRenderer": "VigilPlace", "flex": 3, "minWidth": 220},
    {"headerName": "Decision", "field": "decision", "cellRenderer": "VigilDecision", "width": 120},
    {"headerName": "Why", "field": "why", "cellRenderer": "VigilWhy", "flex": 3, "minWidth": 190},
    {"headerName": "Score", "field": "score_text", "width": 84, "cellClass": "right", "headerClass": "right"},
    {"headerName": "User", "field": "user_id", "width": 130},
    {"headerName": "Model", "field": "model_version", "width": 80},
]


async def page(_: Client, who: Reader, search: str) -> tuple[str, frame.Part]:
    return "Payments", [
        frame.heading("Payments", html.Div(exports(filters.read(search)), id="exports", className="actions")),
        html.Div(form(), className="card filters", role="search", **{"aria-label": "Payments"}),
        html.Div(id="told", role="status"),
        html.Div(grid(search), id="results"),
    ]


def register(dash: Dash, client: Client) -> None:
    values = [State(f"filter-{name}", "value") for name in filters.NAMES]
    entered = [Input(f"filter-{name}", "n_submit") for name in filters.NAMES if name not in CHOICES]
    # Times are typed in the browser's zone, which only the browser can turn into UTC.
    dash.clientside_callback(
        ClientsideFunction("vigil", "applied"),
        Output("url", "search", allow_duplicate=True),
        Input("apply", "n_clicks"),
        Input("clear", "n_clicks"),
        *entered,
        *values,
        prevent_initial_call=True,
    )
    dash.clientside_callback(
        ClientsideFunction("vigil", "filled"),
        [Output(f"filter-{name}", "value") for name in filters.NAMES],
        Input("url", "search"),
        Input("apply", "id"),
    )

    @dash.callback(
        Output("results", "children"),
        Output("exports", "children"),
        Input("url", "search"),
        prevent_initial_call=True,
    )
    async def filtered(search: str) -> tuple[frame.Part, frame.Part]:
        return grid(search), exports(filters.read(search))

    @dash.callback(
        Output("grid", "getRowsResponse"),
        Output("cursors", "data"),
        Output("told", "children"),
        Input("grid", "getRowsRequest"),
        State("cursors", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    async def rows(request: dict[str, Any] | None, cursors: dict[str, str], search: str) -> tuple[Any, Any, frame.Part]:
        start = int((request or {}).get("startRow") or 0)
        asked = filters.read(search)
        try:
            answer, after = await block(client, asked, start, dict(cursors or {}))
        except Refused as refusal:
            return {"rowData": [], "rowCount": 0}, cursors, frame.trouble(refusal)
        count = None if answer["next_cursor"] else start + len(answer["items"])
        shown = [row(one, answer, at, reader()) for at, one in enumerate(answer["items"])]
        return {"rowData": shown, "rowCount": count}, after, told(answer, asked, start, count)


async def block(
    client: Client, asked: filters.Filters, start: int, cursors: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The rows from `start` on, and the cursors that lead on: one for each block's first row.

    Pages follow each other, so a block whose cursor nobody kept is reached from the beginning.
    """
    path, parameters = filters.question(asked)
    if path == "/search":
        parameters["facets"] = "true"
    at = start if start == 0 or str(start) in cursors else 0
    if start - at > FAR:
        raise Refused({"code": "TOO_FAR", "detail": "rows so far down are reached by a narrower view"})
    while True:
        items: list[Any] = []
        highlights: list[Any] = []
        cursor = cursors.get(str(at))
        while True:  # a page may hold fewer than were asked for, and more may follow all the same
            page = await client.get(path, **parameters, limit=BLOCK - len(items), cursor=cursor)
            items += page["items"]
            highlights += page.get("highlights", [])
            cursor = page["next_cursor"]
            if cursor is None or len(items) >= BLOCK:
                break
        answer = {**page, "items": items, "highlights": highlights}
        if cursor is not None:
            cursors[str(at + BLOCK)] = cursor
        if at >= start or cursor is None:
            return answer, cursors
        at += BLOCK


def form() -> frame.Part:
    first = ("q", "from", "to", "is_anomaly", "reason")
    return html.Div(
        [
            html.Div([field(name) for name in first], className="fields"),
            html.Details(
                [
                    html.Summary("More filters"),
                    html.Div([field(name) for name in filters.NAMES if name not in first], className="fields"),
                ],
                id="more-filters",
            ),
            html.Div(
                [
                    html.Button("Show", id="apply", className="button strong", type="button"),
                    html.Button("Clear", id="clear", className="button", type="button"),
                    html.Span('Search knows words, "phrases", beginn*, location:boston and OR.', className="fine"),
                ],
                className="actions",
            ),
        ]
    )


def field(name: str) -> frame.Part:
    identity = f"filter-{name}"
    label = html.Label(LABELS[name], htmlFor=identity, id=f"{identity}-label")
    if name in CHOICES:
        options = [{"label": shown, "value": value} for value, shown in CHOICES[name].items()]
        control: frame.Part = dcc.Dropdown(
            id=identity, options=options, placeholder="Any" if name != "sort" else "Newest first", searchable=False
        )
    elif name in ("from", "to"):
        control = dcc.Input(id=identity, type="datetime-local", className="text")
    else:
        kind = "search" if name == "q" else "text"
        hints = {"q": "coffee boston", "min_amount": "0", "max_amount": "any"}
        control = dcc.Input(
            id=identity, type=kind, className="text", placeholder=hints.get(name, "Any"), autoComplete="off",
            inputMode="decimal" if name.endswith("amount") else None,
        )  # fmt: skip
    return html.Div([label, control], className=f"field field-{name}")


def grid(search: str | None) -> frame.Part:
    """A new grid for each view: it then asks from the first row on."""
    return html.Div(
        [
            dcc.Store(id="cursors", data={}),
            dash_ag_grid.AgGrid(
                id="grid",
                columnDefs=COLUMNS,
                rowModelType="infinite",
                defaultColDef={"sortable": False, "resizable": True, "suppressHeaderMenuButton": True},
                eventListeners={"cellKeyDown": ["openRow(params)"], "cellClicked": ["openRow(params)"]},
                dashGridOptions={
                    "theme": "themeQuartz",
                    "cacheBlockSize": BLOCK,
                    "maxConcurrentDatasourceRequests": 1,
                    "infiniteInitialRowCount": 1,
                    "rowHeight": ROW_PX,
                    "suppressCellFocus": False,
                    "enableCellTextSelection": True,
                },
                className="grid",
                style={"height": "min(70vh, 900px)"},
            ),
        ],
        key=search or "all",
    )


def row(one: Mapping[str, Any], answer: Mapping[str, Any], at: int, who: Reader) -> dict[str, Any]:
    """A decision as the grid shows it."""
    time = moment(one["event_time"])
    marked = answer["highlights"][at] if at < len(answer.get("highlights", [])) else {}
    reasons = [words.reason(code) for code in one["anomaly_reasons"]]
    score = one["anomaly_score"]
    return {
        "href": frame.payment_path(one["transaction_id"]),
        "local": words.brief(time, who.zone, datetime.now(UTC)),
        "utc": words.utc(time),
        "amount_text": words.money(one["amount"], one["currency"]),
        **{name: one[name] for name in ("event_time", "merchant", "location", "payment_method", "user_id")},
        "marked": marked,
        "decision": one["decision"] or one["outcome"],
        "decision_text": "Repeated"
        if one["outcome"] == "duplicate"
        else words.DECISIONS.get(one["decision"] or "", words.UNSCORED),
        "flagged": bool(one["is_anomaly"]),
        "why": "; ".join(reasons) if reasons else one["unscored_reason"] or "",
        "score_text": "" if score is None else f"{score:.3f}",
        "model_version": one["model_version"] or "",
    }


def told(answer: Mapping[str, Any], asked: filters.Filters, start: int, count: int | None) -> frame.Part:
    """How the rows were found, and how many match where search counted."""
    parts: list[frame.Part] = []
    if answer.get("source") == "postgresql":
        parts.append(
            "Search (Elasticsearch) does not answer. Whole words were looked for in the table instead, since "
            f"{words.utc(moment(answer['searched_since']))}, without highlights and similar words. "
        )
    if answer.get("matched") == "similar":
        parts.append("No payment has these words; these have words that differ by a letter or two. ")
    if filters.order_ignored(asked):
        parts.append("With a text to search for, the order does not count: results are newest first. ")
    notes = [html.P(parts, className="note")] if parts else []
    if count == 0:
        notes.append(html.P("No payment fits these filters.", className="empty"))
    return [*notes, facets(answer.get("facets") or {}, asked)]


def facets(found: Mapping[str, Any], asked: filters.Filters) -> frame.Part:
    """Counts of all that match; each is a link to those."""
    parameters = {"decision": "decision", "model_version": "model_version", "anomaly_reasons": "reason"}
    named = {"decision": words.DECISIONS, "anomaly_reasons": words.REASONS}
    groups = []
    for name, parameter in parameters.items():
        links = [
            dcc.Link(
                f"{named.get(name, {}).get(one['value'], one['value'])} {one['count']:,}",
                href=f"{PATH}/payments{filters.written({**asked, parameter: one['value']})}",
                className="chip",
            )
            for one in found.get(name, [])
        ]
        if links:
            groups.append(html.Div([html.Span(LABELS[parameter], className="fine"), *links], className="facet"))
    return html.Div(groups, className="facets") if groups else None


def exports(asked: filters.Filters) -> frame.Part:
    """The filtered payments as files."""
    return [
        html.A(name, href=filters.export(asked, form), className="button", download=f"payments.{form}")
        for form, name in (("csv", "Save as CSV"), ("ndjson", "Save as NDJSON"))
    ]
