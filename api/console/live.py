"""The live page: what the stream does now, and flagged payments as they come."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update

from api.console import frame, words
from api.console.client import Client, Reader, Refused, moment, reader, together
from api.console.door import PATH

EVERY_MS = 5_000
SHOWN_ALERTS = 12
QUIET_S = 15.0  # without a decision for so long, what is shown is no longer "now"


async def page(client: Client, who: Reader, _: str) -> tuple[str, frame.Part]:
    """Counting takes seconds where the stream leaves no core idle, so the numbers come after the rest."""
    (alerts,) = await together(client.get("/transactions", is_anomaly="true", limit=SHOWN_ALERTS))
    if isinstance(alerts, Refused) and alerts.code == "SCOPE_MISSING":
        raise alerts  # then nothing of it can be shown
    return "Live", [
        frame.heading("Live", html.P(id="stream-state", role="status", className="fine")),
        html.Div(id="amiss"),
        html.Div(html.P("Counting", className="loading"), id="live-body"),
        frame.card(
            "Flagged payments",
            html.Div(flagged(alerts, who), id="alerts-list"),
            beside=dcc.Link("All flagged", href=f"{PATH}/payments?is_anomaly=true", className="more"),
            wide=True,
        ),
        dcc.Store(id="alerts", data=[] if isinstance(alerts, Refused) else alerts["items"]),
        dcc.Store(id="stream-broke"),
        dcc.Store(id="stream-again"),
        dcc.Interval(id="live-tick", interval=EVERY_MS),
    ]


def register(dash: Dash, client: Client) -> None:
    @dash.callback(Output("live-body", "children"), Input("live-tick", "n_intervals"))
    async def tick(_: int) -> frame.Part:
        (stats,) = await together(client.get("/stats/live"))
        return _body(stats, reader())

    # On its own: a server that hangs keeps nobody from seeing the rest.
    @dash.callback(Output("amiss", "children"), Input("live-tick", "n_intervals"))
    async def looked(_: int) -> frame.Part:
        (servers,) = await together(client.get("/servers"))
        return amiss(servers)

    @dash.callback(
        Output("alerts", "data"),
        Output("stream-again", "data"),
        Input("stream-broke", "data"),
        prevent_initial_call=True,
    )
    async def again(broke: int) -> tuple[Any, int]:
        """The list as it stands now, then the stream: what came while it was refused is not missed."""
        (alerts,) = await together(client.get("/transactions", is_anomaly="true", limit=SHOWN_ALERTS))
        return no_update if isinstance(alerts, Refused) else alerts["items"], broke

    @dash.callback(Output("alerts-list", "children"), Input("alerts", "data"), prevent_initial_call=True)
    async def alerted(alerts: list[dict[str, Any]]) -> frame.Part:
        return flagged({"items": alerts}, reader())

    # The stream is followed while the page is open: a new element, another page, and it is let go.
    dash.clientside_callback(
        ClientsideFunction("vigil", "follow"),
        Output("stream-state", "children"),
        Input("stream-state", "id"),
        Input("stream-again", "data"),
        State("alerts", "data"),
    )


def _body(stats: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    if isinstance(stats, Refused):
        return frame.trouble(stats)
    return [freshness(stats, who), tiles(stats), charts(stats, who)]


def amiss(servers: Mapping[str, Any] | Refused) -> frame.Part:
    """What is degraded, in a line each."""
    if isinstance(servers, Refused):
        return frame.trouble(servers)
    found = servers["degraded"]
    down = [one for one in servers["items"] if one["state"] in ("down", "not ready")]
    if not found and not down:
        return html.P([html.Span(className="dot good", **frame.HIDDEN), "Nothing is degraded."], className="amiss")
    lines = [html.Li([html.Strong(one["code"]), f" {one['cause']}"]) for one in found]
    lines += [html.Li([html.Strong(one["name"]), f" is {one['state']}: {one['means']}"]) for one in down]
    return html.Div(
        [
            html.P([html.Span(className="dot bad", **frame.HIDDEN), "Degraded"], className="amiss-title"),
            html.Ul(lines),
            dcc.Link("What to do", href=f"{PATH}/health"),
        ],
        className="amiss warn",
        role="alert",
    )


def freshness(stats: Mapping[str, Any], who: Reader) -> frame.Part:
    """How old the numbers are: old ones are never shown as if they were of now."""
    if stats["decided_at"] is None:
        return html.P("No payment has been decided yet. They come with: vigil produce", className="fresh stale")
    at, now = moment(stats["decided_at"]), moment(stats["at"])
    age = (now - at).total_seconds()
    if fresh(stats):
        return html.P(
            f"Newest decision {words.ago(age)} ago; throughput is the last minute's, ages and shares are of the newest "
            f"{stats['measured']:,} decisions, by the commit.",
            className="fresh",
        )
    since = words.local(at, who.zone)
    return html.P(f"No data since {since} ({words.ago(age)}): no payment was decided.", className="fresh stale")


def tiles(stats: Mapping[str, Any]) -> frame.Part:
    age, measured = stats["age"], stats["measured"]
    scored = sum(count["decisions"] for count in stats["by_model_version"].values())
    waiting = stats["waiting"]
    return html.Dl(
        [
            tile("Throughput", words.number(stats["per_second"]), "payments a second"),
            tile("Waiting", "not known" if waiting is None else f"{waiting:,}", "on the topic, not decided yet"),
            tile("Age when decided", words.seconds(age["p50"]) if age else "-", "half are younger (p50)"),
            tile("p95", words.seconds(age["p95"]) if age else "-", "19 of 20 are younger"),
            tile("p99", words.seconds(age["p99"]) if age else "-", "99 of 100 are younger"),
            tile("Flagged", words.share(stats["flagged"], scored), f"{stats['flagged']:,} of {measured:,}"),
        ],
        className="tiles" if fresh(stats) else "tiles old",
    )


def fresh(stats: Mapping[str, Any]) -> bool:
    decided = stats["decided_at"]
    return decided is not None and (moment(stats["at"]) - moment(decided)).total_seconds() <= QUIET_S


def tile(name: str, value: str, below: str) -> frame.Part:
    return html.Div([html.Dt(name), html.Dd([html.Span(value, className="value"), html.Span(below, className="fine")])])


def charts(stats: Mapping[str, Any], who: Reader) -> frame.Part:
    stretches = stats["stretches"]
    rates = [one["payments"] / 10 for one in stretches]
    peak = max(rates, default=0.0)
    hidden = {"tickfont": {"size": 11}}
    throughput = frame.plot(
        "throughput",
        [
            {
                "type": "bar",
                "x": [_local(one["began_at"], who) for one in stretches],
                "y": rates,
                "marker": {"color": "#4f7cff"},
                "hovertemplate": "%{x|%H:%M:%S}: %{y:,.0f} a second<extra></extra>",
            }
        ],
        180,
        f"Payments decided per second over the last ten minutes, at most {peak:,.0f}",
        bargap=0.15,
        xaxis={"tickformat": "%H:%M", **hidden},
        yaxis={"rangemode": "tozero", "nticks": 4, "ticksuffix": "   ", **hidden},
    )
    scored = sum(count["decisions"] for count in stats["by_model_version"].values())
    versions = [
        [f"Version {name}", f"{c['decisions']:,}", f"{c['flagged']:,}", words.share(c["flagged"], c["decisions"])]
        for name, c in stats["by_model_version"].items()
    ]
    head = ["Model", "Decisions", "Flagged", "Share"]
    decisions = frame.bars(stats["by_decision"], sum(stats["by_decision"].values()), words.DECISIONS)
    return html.Div(
        [
            frame.card("Payments per second, last ten minutes", throughput, wide=True),
            frame.card("Why payments were flagged", frame.bars(stats["by_reason"], scored, words.REASONS)),
            frame.card("Decisions", decisions),
            frame.card(
                "By model version",
                frame.table(head, versions, "Decisions by model version", numbers=(1, 2, 3))
                if versions
                else frame.empty("No payment was scored lately."),
            ),
        ],
        className="cards three",
    )


def _local(text: str, who: Reader) -> str:
    """Plotly takes a time without a zone as it stands."""
    return moment(text).astimezone(who.zone).replace(tzinfo=None).isoformat()


def flagged(answer: Mapping[str, Any] | Refused, who: Reader) -> frame.Part:
    """Flagged payments, newest first."""
    if isinstance(answer, Refused):
        return frame.trouble(answer)
    items: Sequence[Mapping[str, Any]] = answer["items"]
    if not items:
        return frame.empty("No payment was flagged yet.")
    return html.Ul([alert(one, who) for one in items[:SHOWN_ALERTS]], className="alerts")


def alert(one: Mapping[str, Any], who: Reader) -> frame.Part:
    at: datetime = moment(one["event_time"])
    reasons = ", ".join(words.reason(code).lower() for code in one.get("anomaly_reasons") or [])
    return html.Li(
        dcc.Link(
            [
                html.Span(words.money(one["amount"], one["currency"]), className="amount"),
                html.Span(f"{one['merchant']}, {one['location']}", className="place"),
                html.Span(reasons[:1].upper() + reasons[1:] or "No reason stands out", className="why"),
                html.Time(
                    words.brief(at, who.zone, datetime.now(UTC)), dateTime=one["event_time"], title=words.utc(at)
                ),
            ],
            href=frame.payment_path(one["transaction_id"]),
        ),
        key=f"{one['decision_id']}-{one.get('revision')}",
    )
