"""The health page: every server, what is degraded and what to do, switches, and what waits."""

from collections.abc import Mapping
from typing import Any

from dash import Dash, Input, Output, dcc, html

from api.console import frame, words
from api.console.client import Client, Reader, Refused, moment, reader, together

EVERY_MS = 10_000
SWITCHES = {"intake": "Intake of payments", "scoring": "Scoring"}
HISTORY = 8


async def page(client: Client, who: Reader, _: str) -> tuple[str, frame.Part]:
    return "Health", [
        frame.heading("Health"),
        html.Div(await _body(client, who), id="health-body"),
        dcc.Interval(id="health-tick", interval=EVERY_MS),
    ]


def register(dash: Dash, client: Client) -> None:
    @dash.callback(Output("health-body", "children"), Input("health-tick", "n_intervals"), prevent_initial_call=True)
    async def tick(_: int) -> frame.Part:
        return await _body(client, reader())


async def _body(client: Client, who: Reader) -> frame.Part:
    servers, stats, switches = await together(
        client.get("/servers"), client.get("/stats/live"), client.get("/switches")
    )
    return html.Div(
        [
            frame.card("What is degraded", degraded(servers, who), wide=True),
            frame.card("Servers", listed(servers), wide=True),
            frame.card("What waits", waiting(stats, who)),
            frame.card("Switches of the stream", standing(switches, who)),
        ],
        className="cards",
    )


def degraded(servers: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    if isinstance(servers, Refused):
        return frame.trouble(servers)
    found = [
        _trouble(one["code"], one["component"], one["cause"], one["remedy"], frame.when(one["since"], who.zone))
        for one in servers["degraded"]
    ]
    found += [
        _trouble("DOWN" if one["state"] == "down" else "NOT READY", one["name"], one["means"], one["remedy"], None)
        for one in servers["items"]
        if one["state"] in ("down", "not ready")
    ]
    if not found:
        return html.P([html.Span(className="dot good", **frame.HIDDEN), "Nothing is degraded: all of the road works."])
    return html.Ul(found, className="troubles")


def _trouble(code: str, component: str, cause: str, remedy: str, since: frame.Part) -> frame.Part:
    return html.Li(
        [
            html.P(
                [html.Span(component, className="badge reject"), html.Strong(code.replace("_", " ").lower()), since]
            ),
            html.P(cause[:1].upper() + cause[1:] + "."),
            html.P(["What to do: ", html.Code(remedy)]),
        ]
    )


def listed(servers: Mapping[str, Any] | Refused) -> frame.Part:
    if isinstance(servers, Refused):
        return frame.trouble(servers)
    colour = {"up": "good", "down": "bad", "not ready": "bad"}
    rows = [
        [
            html.Strong(one["name"]),
            html.Span(
                [html.Span(className=f"dot {colour.get(one['state'], '')}", **frame.HIDDEN), one["state"]],
                className="state",
            ),
            f"without it {one['means']}",
            html.Code(one["remedy"]) if one["state"] in ("down", "not ready") else "",
        ]
        for one in servers["items"]
    ]
    return frame.table(["Server", "State", "What it is for", "What to do"], rows, "Servers and processes", folds=True)


def waiting(stats: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    if isinstance(stats, Refused):
        return frame.trouble(stats)
    decided = stats["decided_at"]
    age = stats["age"]
    return frame.facts(
        {
            "Payments not decided yet": _count(stats["waiting"]),
            "Decisions that search lacks": _count(stats["unindexed"]),
            "Newest decision": "none yet"
            if decided is None
            else [
                frame.when(decided, who.zone),
                f" ({words.ago((moment(stats['at']) - moment(decided)).total_seconds())} ago)",
            ],
            "Age when decided, p99": words.seconds(age["p99"]) if age else "nothing decided in the last minute",
        }
    )


def _count(value: int | None) -> str:
    return "not known: Kafka does not tell" if value is None else f"{value:,}"


def standing(switches: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    if isinstance(switches, Refused):
        return frame.trouble(switches)
    usual = ("running", "scored")
    rows = [
        [
            SWITCHES.get(one["name"], one["name"]),
            html.Span(one["state"], className=f"badge {'approve' if one['state'] in usual else 'review'}"),
            f"{one['actor']}: {one['reason']}",
            frame.when(one["changed_at"], who.zone),
        ]
        for one in switches["switches"]
    ]
    past = [
        html.Li(
            [
                frame.when(one["at"], who.zone),
                f" {one['name']} {one['before']} → {one['state']}, {one['actor']}: {one['reason']}",
            ]
        )
        for one in switches["history"][:HISTORY]
    ]
    return html.Div(
        [
            frame.table(["Switch", "Stands", "Set by", "Since"], rows, "Switches of the stream", folds=True),
            html.Details([html.Summary("Thrown before"), html.Ul(past, className="past")]) if past else None,
            html.P("vigil switch pause | resume | rules-only | scored throws them.", className="fine"),
        ]
    )
