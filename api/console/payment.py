"""One payment: why it was decided so, in words and numbers, among the user's others; and what was learnt later."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from api.console import filters, frame, words
from api.console.client import Client, Reader, Refused, moment, reader, together
from api.console.door import PATH
from feature_repo.transaction import rfc3339

BEFORE, AFTER = 60, 30  # payments of the user on the timeline
PARTS = 12  # contributions shown
SMALL = 0.02  # a smaller part of the anomaly is not worth a bar
SOON = timedelta(microseconds=1)


async def page(client: Client, who: Reader, transaction_id: str) -> tuple[str, frame.Part]:
    """Raises Refused where there is no such payment."""
    path = f"/transactions/{quote(transaction_id, safe='')}"
    one, explained, labels = await together(
        client.get(path), client.get(f"{path}/explain"), client.get("/labels", transaction_id=transaction_id)
    )
    if isinstance(one, Refused):
        raise one
    user, at = one["user_id"], moment(one["event_time"])
    around = await together(
        client.get("/transactions", user_id=user, to=rfc3339(at + SOON), limit=BEFORE),
        client.get("/transactions", user_id=user, from_=rfc3339(at + SOON), sort="event_time", limit=AFTER),
    )
    title = f"{words.money(one['amount'], one['currency'])} at {one['merchant']}"
    return title, [
        frame.heading(title, frame.verdict(one), steps()),
        html.P(
            [
                frame.when(one["event_time"], who.zone),
                html.Span(f"{one['location']} · {one['payment_method'].replace('_', ' ')}"),
                dcc.Link(f"All payments of {user}", href=f"{PATH}/payments{filters.written({'user_id': user})}"),
            ],
            className="under",
        ),
        html.Div(id="step-said", role="status"),
        frame.columns(
            [frame.card("Why", *why(one, explained), id="why")],
            [
                frame.card(
                    "What do you know of it?", html.Div(known(labels, who), id="labels"), judge(who), id="judge"
                ),
                frame.card("What if it had been usual?", what_if(explained)),
            ],
        ),
        frame.card("The user's payments", *timeline(one, around, who)),
        frame.columns(
            [frame.card("What each feature contributed", contributions(explained))],
            [
                frame.card("The user", html.Div(frame.empty("Asking the feature store."), id="user")),
                frame.card("Where the decision comes from", origin(one, who)),
            ],
        ),
        dcc.Store(id="user-id", data=user),
        dcc.Store(id="payment", data={"transaction_id": transaction_id, "event_time": one["event_time"]}),
    ]


def register(dash: Dash, client: Client) -> None:
    @dash.callback(
        Output("labels", "children"),
        Output("label-said", "children"),
        Output("author", "data"),
        Input("fraud", "n_clicks"),
        Input("genuine", "n_clicks"),
        State("label-author", "value"),
        State("payment", "data"),
        prevent_initial_call=True,
    )
    async def label(
        fraudulent: int | None, genuine: int | None, author: str | None, shown: dict[str, str]
    ) -> tuple[Any, frame.Part, Any]:
        if not (fraudulent or genuine):
            raise PreventUpdate  # the buttons have just appeared
        name = (author or "").strip()
        if not name:
            return no_update, "Write your name first: a label says who it is from.", no_update
        fraud = ctx.triggered_id == "fraud"
        said = {
            "transaction_id": shown["transaction_id"],
            "is_fraud": fraud,
            "label_time": rfc3339(datetime.now(UTC)),
            "source": name,
        }
        try:
            await client.post("/labels", said)
            found = await client.get("/labels", transaction_id=shown["transaction_id"])
        except Refused as refusal:
            return no_update, frame.trouble(refusal), no_update
        return known(found, reader()), f"Stored: {'fraud' if fraud else 'genuine'}, by {name}.", name

    @dash.callback(Output("user", "children"), Input("user-id", "data"))
    async def user(identity: str) -> frame.Part:
        try:
            return about(await client.get(f"/users/{quote(identity, safe='')}"), reader())
        except Refused as refusal:
            return frame.trouble(refusal)

    @dash.callback(
        Output("url", "pathname", allow_duplicate=True),
        Output("step-said", "children"),
        Input("newer", "n_clicks"),
        Input("older", "n_clicks"),
        State("payment", "data"),
        prevent_initial_call=True,
    )
    async def step(up: int | None, down: int | None, shown: dict[str, str]) -> tuple[Any, frame.Part]:
        if not (up or down):
            raise PreventUpdate
        at = moment(shown["event_time"])
        newer = ctx.triggered_id == "newer"
        way = {"from_": rfc3339(at), "sort": "event_time"} if newer else {"to": rfc3339(at + SOON)}
        try:
            found = await client.get("/transactions", is_anomaly="true", limit=20, **way)
        except Refused as refusal:
            return no_update, frame.trouble(refusal)
        target = following([one["transaction_id"] for one in found["items"]], shown["transaction_id"])
        if target is None:
            return no_update, html.P(f"There is no {'newer' if newer else 'older'} flagged payment.", className="note")
        return frame.payment_path(target), None

    dash.clientside_callback(
        ClientsideFunction("vigil", "pointed"), Output("timeline", "className"), Input("timeline", "clickData")
    )
    dash.clientside_callback(
        ClientsideFunction("vigil", "remembered"),
        Output("label-author", "value"),
        Input("label-author", "id"),
        State("author", "data"),
        State("label-author", "value"),
    )


def following(ids: Sequence[str], shown: str) -> str | None:
    """The flagged payment behind the one that is shown; payments of the same moment keep their order."""
    rest = ids[ids.index(shown) + 1 :] if shown in ids else ids
    return next(iter(rest), None)


def steps() -> frame.Part:
    return html.Div(
        [
            html.Button("← Newer flagged", id="newer", className="button", type="button"),
            html.Button("Older flagged →", id="older", className="button", type="button"),
        ],
        className="actions",
    )


def why(one: Mapping[str, Any], explained: Mapping[str, Any] | Refused) -> list[frame.Part]:
    """The decision in plain words, with the numbers it rests on."""
    if one["outcome"] != "scored":
        reason = one["unscored_reason"] or "it is a repetition of an earlier payment"
        return [html.P(f"There is no score: {reason}. {_unscored(one)}")]
    threshold = None if isinstance(explained, Refused) else explained["threshold"]
    limit = "" if threshold is None else f"; from {threshold:.3f} on a payment is flagged"
    lead = "Flagged" if one["is_anomaly"] else "Not flagged"
    told = [html.P([html.Strong(lead), f": its score is {one['anomaly_score']:.3f} of 1{limit}."])]
    evidence = (one.get("evidence") if isinstance(explained, Refused) else explained["evidence"]) or []
    items = []
    for code, part in zip(one["anomaly_reasons"], one["reason_shares"], strict=False):
        behind = [found for found in evidence if found["reason"] == code]
        sentences = [words.evidence(found, one["currency"]) for found in behind]
        items.append(
            html.Li(
                [
                    html.H3(
                        [words.reason(code, behind), html.Span(f"{100 * part:.0f} % of the anomaly", className="fine")]
                    ),
                    *[html.P(sentence) for sentence in sentences],
                ]
            )
        )
    if items:
        told.append(html.Ol(items, className="reasons"))
    elif not one["is_anomaly"]:
        told.append(html.P("Nothing about it was unusual enough."))
    if items and not evidence:
        told.append(
            html.P(
                "The numbers behind the reasons are not known: the model version is no longer loaded.", className="fine"
            )
        )
    return told


def _unscored(one: Mapping[str, Any]) -> str:
    return "It went to review." if one["decision"] == "review" else ""


def contributions(explained: Mapping[str, Any] | Refused) -> frame.Part:
    """Bars, longest first, with the value beside the usual one as the model reads them."""
    if isinstance(explained, Refused):
        return frame.trouble(explained)
    features = explained["features"]
    if features is None:
        return frame.empty("The model version is no longer loaded, so nobody can tell.")
    shown = [part for part in features[:PARTS] if part["contribution"] >= SMALL]
    longest = max((part["contribution"] for part in shown), default=1)
    items = [
        html.Li(
            [
                html.Span(words.feature(part["name"]), title=f"{part['name']}: {part['meaning']} ({part['window']})"),
                html.Strong(f"{100 * part['contribution']:.0f} %", className="number"),
                html.Span(
                    html.Span(style={"width": f"{100 * part['contribution'] / longest:.1f}%"}),
                    className="bar",
                    **frame.HIDDEN,
                ),
                html.Span(
                    f"{words.number(part['value'])}"
                    + ("" if part["usual"] is None else f", usually {words.number(part['usual'])}"),
                    className="fine",
                ),
            ]
        )
        for part in shown
    ]
    rest = max(0.0, 1 - sum(part["contribution"] for part in shown))
    others = len(features) - len(shown)
    below = f"{others} others together: {words.share(rest, 1)}. " if others else ""
    return html.Div(
        [
            html.Ul(items, className="contributions"),
            html.P(f"{below}Values are as the model reads them, most of them logarithms.", className="fine"),
        ]
    )


def what_if(explained: Mapping[str, Any] | Refused) -> frame.Part:
    if isinstance(explained, Refused):
        return frame.empty("Not known for this payment.")
    found = explained["what_if"]
    if found is None:
        return frame.empty("The model version is no longer loaded, so nobody can tell.")
    if not found:
        return frame.empty("It has no reasons that could be taken away.")
    rows = [
        [
            "All of these" if at == 0 and len(one["usual"]) > 1 else words.reason(one["usual"][0]),
            f"{one['anomaly_score']:.3f}",
            html.Span(
                "flagged" if one["is_anomaly"] else "not flagged", className="bad" if one["is_anomaly"] else "good"
            ),
        ]
        for at, one in enumerate(found)
    ]
    head = ["Taken as usual", "Score", "Then"]
    return frame.table(head, rows, "Scores with reasons at their usual values", numbers=(1,))


def timeline(one: Mapping[str, Any], around: Sequence[Any], who: Reader) -> list[frame.Part]:
    """Amounts over time; flagged ones stand out, this one most."""
    refused = next((found for found in around if isinstance(found, Refused)), None)
    if refused is not None:
        return [frame.trouble(refused)]
    others = [item for found in around for item in found["items"] if item["decision_id"] != one["decision_id"]]
    groups = {
        "ordinary": ([item for item in others if not item["is_anomaly"]], {"color": "#7d8aa5", "size": 8}),
        "flagged": ([item for item in others if item["is_anomaly"]], {"color": "#e5484d", "size": 10}),
        "this payment": ([one], {"color": "#4f7cff", "size": 15, "symbol": "diamond"}),
    }
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [moment(item["event_time"]).astimezone(who.zone).replace(tzinfo=None).isoformat() for item in items],
            "y": [item["amount"] for item in items],
            "customdata": [frame.payment_path(item["transaction_id"]) for item in items],
            "text": [item["merchant"] for item in items],
            "marker": marker,
            "hovertemplate": "%{text}<br>%{y:,.2f}, %{x|%d %b %H:%M}<extra></extra>",
        }
        for name, (items, marker) in groups.items()
        if items
    ]
    flagged = len(groups["flagged"][0])
    told = f"{len(others) + 1} payments of the user around this one, {flagged} of the others flagged"
    return [
        frame.plot(
            "timeline",
            data,
            240,
            told,
            showlegend=True,
            legend={"orientation": "h", "y": 1.15, "x": 0},
            hovermode="closest",
            yaxis={"title": {"text": one["currency"]}, "type": _scale(one, others)},
        ),
        html.P(f"{told}. Click on one to open it.", className="fine"),
        html.Details([html.Summary("The same as a list"), listed(one, others, who)], className="as-list"),
    ]


def listed(one: Mapping[str, Any], others: Sequence[Mapping[str, Any]], who: Reader) -> frame.Part:
    """What the timeline shows, for those who use no mouse; newest first."""

    def row(item: Mapping[str, Any]) -> frame.Part:
        told = f"{words.local(moment(item['event_time']), who.zone)} · {words.money(item['amount'], item['currency'])}"
        told += f" · {item['merchant']}{' · flagged' if item['is_anomaly'] else ''}"
        if item is one:
            return html.Li(html.Strong(f"{told} · this payment"), **{"aria-current": "true"})
        return html.Li(dcc.Link(told, href=frame.payment_path(item["transaction_id"])))

    return html.Ul([row(item) for item in sorted([*others, one], key=lambda item: moment(item["event_time"]))[::-1]])


def _scale(one: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Logarithmic where one amount would flatten all others."""
    amounts = sorted(item["amount"] for item in [*others, one])
    return "log" if amounts[0] > 0 and amounts[-1] > 20 * amounts[len(amounts) // 2] else "linear"


def about(user: Mapping[str, Any], who: Reader) -> frame.Part:
    """What is known of the user now."""
    tags = {
        "reported_fraud": "A payment was reported as fraud",
        "flagged": "A payment was flagged of late",
        "sparse": "Little is known of the user",
        "silent": "Silent for over 30 days",
    }
    marks = [
        html.Li([tags.get(tag["name"], tag["name"]), " ", frame.when(tag["since"], who.zone)]) for tag in user["tags"]
    ]
    features = user["features"] or {}
    shown = {
        label: words.number(features[name]) if isinstance(features[name], int | float) else _read(features[name], who)
        for name, label in words.ACTIVITY.items()
        if features.get(name) is not None
    }
    return html.Div(
        [
            html.Ul(marks, className="marks") if marks else html.P("Nothing stands out of late.", className="fine"),
            frame.facts(shown) if shown else frame.empty("The feature store holds nothing of the user."),
        ]
    )


def _read(value: Any, who: Reader) -> frame.Part:
    try:
        return words.local(moment(str(value)), who.zone)
    except ValueError:
        return str(value)


def origin(one: Mapping[str, Any], who: Reader) -> frame.Part:
    sha = one["artifact_sha256"]
    version = one["model_version"]
    pairs: dict[str, frame.Part] = {
        "Transaction": html.Code(one["transaction_id"]),
        "Model version": dcc.Link(f"Version {version}", href=f"{PATH}/models") if version else "none",
        "Artefact": frame.short(sha) if sha else "not known: the version is no longer loaded",
        "Feature set": html.Code(one["feature_set_id"] or "none"),
        "Rules": html.Code(one["ruleset_version"]),
        "Snapshot of merchants": html.Code(one["side_inputs"] or "none"),
        "Place in the log": html.Code(f"{one['decision_id']}, revision {one['revision']}"),
        "Arrived": frame.when(one["ingested_at"], who.zone),
        "Decided": frame.when(one["processed_at"], who.zone),
    }
    if one["challenger_version"] is not None:
        pairs["On trial"] = f"Version {one['challenger_version']} gave it {one['challenger_score']:.3f}"
    notes = [
        name
        for name, holds in (("It arrived late, behind a newer one of the user.", one["late"]),
                            ("The same payment arrived again later.", one["seen_before"]))
        if holds
    ]  # fmt: skip
    return html.Div([frame.facts(pairs), *[html.P(note, className="fine") for note in notes]])


def known(labels: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    """The labels so far, newest first; the first one counts."""
    if isinstance(labels, Refused):
        return frame.trouble(labels)
    if not labels["items"]:
        return html.P("Nobody has said yet whether it was fraud.", className="fine")
    return html.Ul(
        [
            html.Li(
                [
                    html.Span(
                        "Fraud" if one["is_fraud"] else "Genuine",
                        className=f"badge {'reject' if one['is_fraud'] else 'approve'}",
                    ),
                    html.Span(f"says {one['source']}"),
                    frame.when(one["label_time"], who.zone),
                ],
                className="counts" if at == 0 else "older",
            )
            for at, one in enumerate(labels["items"])
        ],
        className="labels",
    )


def judge(who: Reader) -> frame.Part:
    return html.Div(
        [
            html.Div(
                [
                    html.Label("Your name", htmlFor="label-author"),
                    dcc.Input(
                        id="label-author", value=frame.known(who), className="text", maxLength=64, autoComplete="name"
                    ),
                ],
                className="field",
            ),
            html.Div(
                [
                    html.Button("It was fraud", id="fraud", className="button danger", type="button"),
                    html.Button("It was genuine", id="genuine", className="button", type="button"),
                ],
                className="actions",
            ),
            html.Div(id="label-said", role="status", className="fine"),
        ],
        className="judge",
    )
