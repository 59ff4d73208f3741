"""The models page: versions, what the gate said of them, one beside another, and which one decides."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from api.console import frame, words
from api.console.client import Client, Reader, Refused, reader, together

FOLLOWED_MS = 1_500
METRICS = {
    "held_out_average_precision": "Average precision, held-out days",
    "held_out_auc": "Area under the ROC curve, held-out days",
    "held_out_card_precision_100": "Precision among the 100 riskiest users a day",
}
ALIASES = {"champion": "decides", "challenger": "on trial", "previous": "decided before"}


async def page(client: Client, who: Reader, search: str) -> tuple[str, frame.Part]:
    """Raises Refused where the registry is away. `?request=7` follows a request, `?a=1&b=2` compares."""
    asked = dict(parse_qsl(search.removeprefix("?")))
    request = asked.get("request", "")
    questions = [client.get("/models"), client.get("/models/trial")]
    models, trial, *found = await together(
        *questions, *([client.get(f"/models/requests/{request}")] if request.isdecimal() else [])
    )
    if isinstance(models, Refused):
        raise models
    names = [one["version"] for one in models["versions"]]
    a, b = chosen(asked, models["aliases"], names)
    return "Models", [
        frame.heading("Models", html.Span(models["model_name"], className="fine")),
        html.Div([followed(one) for one in found], id="request"),
        dcc.Store(id="followed", data=request),
        dcc.Interval(id="request-tick", interval=FOLLOWED_MS, disabled=not any(pending(one) for one in found)),
        frame.card(
            "Versions",
            versions(models, who),
            beside=html.Button(
                "Roll back",
                id="ask-rollback",
                className="button",
                type="button",
                disabled="previous" not in models["aliases"],
            ),
            wide=True,
        ),
        html.Div(id="gate"),
        frame.columns(
            [frame.card("On trial against the champion", on_trial(trial, who))],
            [
                frame.card(
                    "Compare two versions",
                    html.Div([picker("a", "One", names, a), picker("b", "Another", names, b)], className="fields"),
                    html.Div(id="compared"),
                )
            ],
        ),
        *dialog(models["aliases"]),
    ]


def register(dash: Dash, client: Client) -> None:
    @dash.callback(
        Output("compared", "children"),
        Output("url", "search", allow_duplicate=True),
        Input("compare-a", "value"),
        Input("compare-b", "value"),
        State("url", "search"),
        prevent_initial_call="initial_duplicate",
    )
    async def compared(a: str | None, b: str | None, search: str | None) -> tuple[frame.Part, Any]:
        if not a or not b:
            return frame.empty("Choose two versions."), no_update
        found = await together(*(client.get(f"/models/{quote(name, safe='')}") for name in (a, b)))
        refused = next((one for one in found if isinstance(one, Refused)), None)
        shown = frame.trouble(refused) if refused else side_by_side(found, reader())
        asked = dict(parse_qsl((search or "").removeprefix("?"))) | {"a": a, "b": b}
        return shown, no_update if ctx.triggered_id is None else f"?{urlencode(asked)}"

    @dash.callback(Output("gate", "children"), Input({"gate": ALL}, "n_clicks"), prevent_initial_call=True)
    async def gate(clicks: list[int | None]) -> frame.Part:
        if not any(clicks) or ctx.triggered_id is None:
            raise PreventUpdate  # the buttons have just appeared
        try:
            found = await client.get(f"/models/requests/{ctx.triggered_id['gate']}")
        except Refused as refusal:
            return frame.trouble(refusal)
        return frame.card(f"The gate on version {found['version']}", report(found, reader()), wide=True)

    # A dialog of the browser: it keeps the focus, closes on Escape and says what it is.
    dash.clientside_callback(
        ClientsideFunction("vigil", "asked"),
        Output("wanted", "data"),
        Output("dialog-title", "children"),
        Output("dialog-text", "children"),
        Output("override-field", "className"),
        Input({"promote": ALL}, "n_clicks"),
        Input({"challenge": ALL}, "n_clicks"),
        Input("ask-rollback", "n_clicks"),
        State("aliases", "data"),
        prevent_initial_call=True,
    )

    @dash.callback(
        Output("followed", "data"),
        Output("request", "children"),
        Output("request-tick", "disabled"),
        Output("dialog-done", "data"),
        Output("url", "search", allow_duplicate=True),
        Input("confirm", "n_clicks"),
        State("wanted", "data"),
        State("override", "value"),
        prevent_initial_call=True,
    )
    async def confirmed(
        clicks: int | None, wanted: dict[str, str] | None, override: str | None
    ) -> tuple[Any, frame.Part, Any, Any, Any]:
        if not clicks or not wanted:
            raise PreventUpdate
        action, version = wanted["action"], wanted.get("version", "")
        reason = (override or "").strip()
        body = {"override": reason} if action == "promote" and reason else {}
        if wanted.get("from_version"):
            body["from_version"] = wanted["from_version"]
        path = "/models/rollback" if action == "rollback" else f"/models/{quote(version, safe='')}/{action}"
        try:
            taken = await client.post(path, body)
        except Refused as refusal:
            return no_update, frame.trouble(refusal), True, clicks, no_update
        return str(taken["id"]), following(None), False, clicks, f"?request={taken['id']}"

    dash.clientside_callback(
        ClientsideFunction("vigil", "closed"),
        Output("override", "value"),
        Input("dialog-done", "data"),
        Input("cancel", "n_clicks"),
    )

    @dash.callback(
        Output("request", "children", allow_duplicate=True),
        Output("main", "children", allow_duplicate=True),
        Input("request-tick", "n_intervals"),
        State("followed", "data"),
        prevent_initial_call=True,
    )
    async def tick(_: int | None, request: str) -> tuple[frame.Part, Any]:
        return await looked(client, reader(), request)


async def looked(client: Client, who: Reader, request: str) -> tuple[frame.Part, Any]:
    """The line about a request, or the whole page once it is finished: the versions stand otherwise then."""
    (found,) = await together(client.get(f"/models/requests/{request}"))
    if pending(found):
        return followed(found), no_update
    try:
        _, content = await page(client, who, f"?request={request}")
    except Refused as refusal:
        return frame.trouble(refusal), no_update
    return no_update, content


def pending(found: Mapping[str, Any] | Refused) -> bool:
    """Whether to ask again: a refusal that may pass says nothing of the request."""
    if isinstance(found, Refused):
        return found.passing
    return bool(found["state"] != "finished")


def followed(found: Mapping[str, Any] | Refused) -> frame.Part:
    return frame.trouble(found) if isinstance(found, Refused) else following(found)


def chosen(asked: Mapping[str, str], aliases: Mapping[str, str], names: Sequence[str]) -> tuple[str | None, str | None]:
    """The two versions to begin with: those of the URL, else the champion and the newest other one."""
    a = asked.get("a") or aliases.get("champion") or next(iter(names), None)
    b = asked.get("b") or aliases.get("challenger") or next((name for name in names if name != a), None)
    return a, b


def picker(side: str, label: str, names: Sequence[str], value: str | None) -> frame.Part:
    identity = f"compare-{side}"
    options = [{"label": f"Version {name}", "value": name} for name in names]
    return html.Div(
        [
            html.Label(label, htmlFor=identity),
            dcc.Dropdown(id=identity, options=options, value=value, clearable=False, searchable=False),
        ],
        className="field",
    )


def versions(models: Mapping[str, Any], who: Reader) -> frame.Part:
    if not models["versions"]:
        return frame.empty("No version is registered yet: vigil train makes one.")
    head = ["Version", "Stands as", "Recipe", "Registered", "Gate", "Artefact", "Do"]
    rows = [
        [
            html.Strong(one["version"]),
            [html.Span(ALIASES.get(alias, alias), className=f"badge {alias}") for alias in one["aliases"]],
            one["recipe"] or "-",
            frame.when(one["created_at"], who.zone),
            judged(one["gate"]),
            frame.short(one["artifact_sha256"], 10),
            actions(one),
        ]
        for one in models["versions"]
    ]
    return frame.table(head, rows, "Registered versions, newest first", folds=True)


def actions(one: Mapping[str, Any]) -> frame.Part:
    version, aliases = one["version"], one["aliases"]
    if "champion" in aliases:
        return html.Span("It decides now", className="fine")
    promote = html.Button(
        "Promote",
        id={"promote": version},
        className="button",
        type="button",
        **{"aria-label": f"Promote version {version}"},
    )
    challenge = html.Button(
        "Try", id={"challenge": version}, className="button quiet", type="button",
        **{"aria-label": f"Put version {version} on trial"},
    )  # fmt: skip
    return html.Div([promote] if "challenger" in aliases else [promote, challenge], className="actions")


def judged(gate: Mapping[str, Any] | None) -> frame.Part:
    """What the gate last said, and the way to its report."""
    if gate is None:
        return html.Span("not judged", className="fine")
    failed = gate["failed"]
    said = "passed" if not failed else f"{len(failed)} failed" + (", overridden" if gate["override"] else "")
    if gate["outcome"] == "failed":
        said = "could not be judged"
    return html.Button(
        said, id={"gate": gate["request"]}, className="button quiet", type="button", title="Show the report"
    )


def on_trial(trial: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    if isinstance(trial, Refused):
        return (
            frame.empty(
                "No version is on trial. Try one: it then scores live payments beside the champion and decides nothing."
            )
            if (trial.code == "NOTHING_ON_TRIAL")
            else frame.trouble(trial)
        )
    cells = {
        "Both flag": trial["both"], "Only the champion flags": trial["only_champion"],
        "Only the challenger flags": trial["only_challenger"], "Neither flags": trial["neither"],
    }  # fmt: skip
    total = sum(cell["payments"] for cell in cells.values())
    if not total:
        return frame.empty(
            f"Version {trial['challenger']} is on trial; no payment of the last hour has both scores yet."
        )
    rows = [
        [name, f"{cell['payments']:,}", words.share(cell["payments"], total), f"{cell['reported']:,}"]
        for name, cell in cells.items()
    ]
    return html.Div(
        [
            html.P(
                [
                    f"Version {trial['challenger']} beside the champion, version {trial['champion']}: ",
                    f"{total:,} payments since ",
                    frame.when(trial["since"], who.zone),
                ]
            ),
            frame.table(["", "Payments", "Share", "Frauds"], rows, "Payments by who flags them", numbers=(1, 2, 3)),
            html.P(
                f"Each at its own threshold, the challenger at {trial['threshold']:.3f}. Of these payments"
                f" {trial['labelled']:,} have a label so far; frauds are reported days later.",
                className="fine",
            ),
        ]
    )


def side_by_side(found: Sequence[Mapping[str, Any]], who: Reader) -> frame.Part:
    """Two versions in columns."""

    def metric(one: Mapping[str, Any], name: str) -> str:
        value = one["metrics"].get(name)
        return "-" if value is None else f"{value:.3f}"

    rows: list[list[frame.Part]] = [
        ["Stands as", *[", ".join(ALIASES.get(alias, alias) for alias in one["aliases"]) or "-" for one in found]],
        ["Recipe", *[one["recipe"] or "-" for one in found]],
        *[[shown, *[metric(one, name) for one in found]] for name, shown in METRICS.items()],
        ["Gate", *[_gate_word(one["gate"]) for one in found]],
        ["Feature set", *[html.Code(one["feature_set_id"] or "-") for one in found]],
        ["Registered", *[frame.when(one["created_at"], who.zone) for one in found]],
    ]
    head = ["", *[f"Version {one['version']}" for one in found]]
    note = (
        "Held-out numbers are of each version's own last days of training: of one window only where both had the same."
    )
    return html.Div([frame.table(head, rows, "Two versions side by side"), html.P(note, className="fine")])


def _gate_word(gate: Mapping[str, Any] | None) -> str:
    if gate is None:
        return "not judged"
    return "passed" if not gate["failed"] else f"failed: {', '.join(gate['failed'])}"


def following(found: Mapping[str, Any] | None) -> frame.Part:
    """A request and how far it is."""
    if found is None:
        return html.Div(html.P("The request is written down.", role="status"), className="card wide asked")
    what = f"{words.ACTIONS.get(found['action'], found['action'])}"
    if found["version"]:
        what += f" {'to' if found['action'] == 'rollback' else 'of'} version {found['version']}"
    if found["state"] != "finished":
        told = f"{what}: {words.STATES[found['state']]}."
        return html.Div(
            [html.P([html.Span(className="spin", **frame.HIDDEN), told], role="status")], className="card wide asked"
        )
    outcome = found["outcome"]
    good = outcome in ("moved", "unchanged")
    parts = [
        html.P(
            [html.Strong(f"{words.OUTCOMES[outcome]}. "), f"{what} (request {found['id']}, {found['actor']})."],
            role="status",
        )
    ]
    if outcome == "moved" and found["aliases_after"]:
        parts.append(html.P(f"Version {found['aliases_after'].get('champion', '-')} decides now."))
    if found["detail"] and not good:
        parts.append(html.P(f"{found['detail'][:1].upper()}{found['detail'][1:]}"))
    if found["report"]:
        parts.append(checks(found["report"]))
    return html.Div(parts, className=f"card wide asked {'done' if good else 'warn'}")


def report(found: Mapping[str, Any], who: Reader) -> frame.Part:
    """The gate's report: checks, then numbers beside the reference's."""
    body = found["report"]
    if not body:
        return frame.empty(found["detail"] or "There is no report of this request.")
    window = body.get("window") or {}
    told = [f"{words.OUTCOMES.get(found['outcome'], '')}. Asked by {found['actor']}."]
    if window.get("from"):
        told.append(
            f"Judged on {window['payments']:,} payments with {window['frauds']:,} frauds,"
            f" {window['from']} to {window['to']}."
        )
    if found["override"]:
        told.append(f"Overridden: {found['override']}")
    return html.Div([html.P(" ".join(told)), checks(body), numbers(body)])


def checks(body: Mapping[str, Any]) -> frame.Part:
    named = {True: ("passed", "approve"), False: ("failed", "reject"), None: ("skipped", "none")}
    rows = [
        [
            html.Span(named[one["passed"]][0], className=f"badge {named[one['passed']][1]}"),
            one["name"].replace("_", " ").lower(),
            one["detail"],
        ]
        for one in sorted(body.get("checks", []), key=lambda one: one["passed"] is not False)
    ]
    return frame.table(["", "Check", "Found"], rows, "Checks of the gate, failed ones first") if rows else html.Div()


def numbers(body: Mapping[str, Any]) -> frame.Part:
    if "candidate" not in body:
        return html.Div()
    sides = (body["candidate"], body["reference"])
    rows = [
        [name.replace("_", " "), *[_interval(side, name) for side in sides]]
        for name in body["candidate"].get("metrics", {})
    ]
    head = ["", "Candidate", str(body["reference"].get("name", "Reference")).replace("_", " ").capitalize()]
    return frame.table(head, rows, "The candidate's numbers beside the reference's", numbers=(1, 2))


def _interval(side: Mapping[str, Any], name: str) -> str:
    value = side.get("metrics", {}).get(name)
    if value is None:
        return "-"
    span = side.get("intervals", {}).get(name)
    return f"{value:,.4g}" + (f" ({span['low']:.3f} to {span['high']:.3f})" if span else "")


def dialog(aliases: Mapping[str, str]) -> list[frame.Part]:
    """Asks before anything moves. It is opened by console.js, as a dialog of the browser."""
    return [
        dcc.Store(id="aliases", data=dict(aliases)),
        dcc.Store(id="wanted"),
        dcc.Store(id="dialog-done"),
        html.Div(
            html.Div(
                [
                    html.H2(id="dialog-title"),
                    html.P(id="dialog-text"),
                    html.Div(
                        [
                            html.Label("Reason to go past failing checks (optional)", htmlFor="override"),
                            dcc.Input(
                                id="override",
                                className="text",
                                maxLength=500,
                                placeholder="leave empty to let the gate decide",
                            ),
                        ],
                        id="override-field",
                        className="field",
                    ),
                    html.Div(
                        [
                            html.Button("Confirm", id="confirm", className="button strong", type="button"),
                            html.Button("Cancel", id="cancel", className="button", type="button"),
                        ],
                        className="actions",
                    ),
                ],
                className="dialog-box",
                role="dialog",
                **{"aria-modal": "true", "aria-labelledby": "dialog-title", "aria-describedby": "dialog-text"},
            ),
            id="dialog",
            hidden=True,
            className="dialog",
        ),
    ]
