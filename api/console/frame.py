"""What all pages are made of."""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from api.console import words
from api.console.client import Reader, Refused, moment, reader
from api.console.door import ASSETS, LOGOUT, PATH

Part = Any  # a Dash component or text: what `children` takes

PAGES = {PATH: "Live", f"{PATH}/payments": "Payments", f"{PATH}/models": "Models", f"{PATH}/health": "Health"}

INDEX = f"""<!doctype html>
<html lang="en">
  <head>
    {{%metas%}}
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>{{%title%}}</title>
    <link rel="icon" href="{ASSETS}vigil.svg" type="image/svg+xml">
    {{%css%}}
  </head>
  <body>
    {{%app_entry%}}
    <footer>{{%config%}}{{%scripts%}}{{%renderer%}}</footer>
  </body>
</html>"""


def shell() -> Part:
    """Everything around a page."""
    who = reader()
    links = [dcc.Link(name, href=path, id={"page": path}, className="page-link") for path, name in PAGES.items()]
    signed = [
        html.Span(who.actor, className="who", title="signed in with this key"),
        html.Form(html.Button("Sign out", type="submit", className="button quiet"), action=LOGOUT, method="post"),
    ]
    return html.Div(
        [
            html.A("Skip to the page", href="#main", className="skip"),
            html.Header(
                [
                    dcc.Link("Vigil", href=PATH, className="brand"),
                    html.Nav(links, **{"aria-label": "Pages"}),
                    html.Div(signed if who.signed_in else [], className="session"),
                ],
                className="top",
            ),
            html.Div(id="mishap", role="alert"),
            html.Main(html.Div(className="loading", children="Loading"), id="main", tabIndex=-1),
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="title"),
            dcc.Store(id="titled"),
            dcc.Store(id="author", storage_type="local"),
        ]
    )


def heading(title: str, *beside: Part) -> Part:
    return html.Div([html.H1(title), *beside], className="heading")


def card(title: str, *children: Part, id: str = "", beside: Part = None, wide: bool = False) -> Part:
    """A section with a title."""
    head = html.Div([html.H2(title), beside], className="card-head") if beside is not None else html.H2(title)
    own = {"id": id} if id else {}
    return html.Section([head, *children], className="card wide" if wide else "card", **own)


def columns(*sides: Sequence[Part]) -> Part:
    """Cards below each other, in columns that become one where the page is narrow."""
    return html.Div([html.Div(side, className="column") for side in sides], className="cards")


def empty(text: str) -> Part:
    return html.P(text, className="empty")


def trouble(refusal: Refused) -> Part:
    """A refusal as a sentence, with the id to name to whoever looks after the service."""
    body = refusal.problem
    fine = [f"{body.get('code', '')}", f"request {body.get('request_id', '')}"]
    return html.Div(
        [html.P(words.problem(body)), html.P(" · ".join(part for part in fine if part), className="fine")],
        className="trouble",
        role="alert",
    )


def facts(pairs: Mapping[str, Part]) -> Part:
    """Names and values beside each other."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs.items()], className="facts")


def table(
    head: Sequence[str], rows: Sequence[Sequence[Part]], caption: str, numbers: Sequence[int] = (), folds: bool = False
) -> Part:
    """`numbers` are the columns that hold some. One that `folds` becomes a list of cells where the page is narrow."""

    def cell(kind: Any, at: int, content: Part, **more: Any) -> Part:
        return kind(content, className="number" if at in numbers else None, **more)

    names = html.Tr([cell(html.Th, at, name, scope="col") for at, name in enumerate(head)])
    body = [html.Tr([cell(html.Td, at, one, **{"data-label": head[at]}) for at, one in enumerate(row)]) for row in rows]
    parts = [html.Caption(caption, className="unseen"), html.Thead(names), html.Tbody(body)]
    return html.Div(html.Table(parts, className="folds" if folds else None), className="scroll")


def bars(counts: Mapping[str, float], whole: float, named: Mapping[str, str] | None = None) -> Part:
    """Counts with a bar each, as part of the whole."""
    if not counts:
        return empty("None in this time.")
    longest = max(counts.values()) or 1
    return html.Ul(
        [
            html.Li(
                [
                    html.Span((named or {}).get(name, name), className="bar-name"),
                    html.Span(f"{count:,.0f}", className="bar-count"),
                    html.Span(words.share(count, whole), className="bar-share"),
                    html.Span(html.Span(style={"width": f"{100 * count / longest:.1f}%"}), className="bar", **HIDDEN),
                ]
            )
            for name, count in counts.items()
        ],
        className="bars",
    )


HIDDEN: dict[str, Any] = {"aria-hidden": "true"}


def when(text: str, zone: tzinfo) -> Part:
    """A time of the service, where the reader is and in UTC."""
    at = moment(text)
    return html.Time(
        [html.Span(words.local(at, zone), className="local"), html.Span(words.utc(at), className="utc")],
        dateTime=text,
        className="when",
    )


def verdict(decision: Mapping[str, Any]) -> Part:
    """What became of a payment."""
    found = decision.get("decision")
    if decision.get("outcome") == "duplicate":
        return html.Span("Repeated", className="badge")
    name = words.DECISIONS.get(str(found), words.UNSCORED)
    return html.Span(name, className=f"badge {found or 'none'}")


def payment_path(transaction_id: str) -> str:
    return f"{PATH}/payments/{quote(transaction_id, safe='')}"


def short(text: str | None, length: int = 12) -> Part:
    """The beginning of a hash; the whole of it on hover and for a screen reader."""
    return html.Code(text[:length], title=text, **{"aria-label": text}) if text else "not known"


def plot_layout(**more: Any) -> dict[str, Any]:
    """A figure's frame. Its colours come from console.css, which follows light and dark."""
    axis = {"fixedrange": True, "zeroline": False, "showline": False, "ticks": "", "automargin": True}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "showlegend": False,
        "dragmode": False,
        **more,
        "xaxis": {**axis, **more.get("xaxis", {})},
        "yaxis": {**axis, **more.get("yaxis", {})},
    }


def plot(id: str, data: Sequence[Mapping[str, Any]], height: int, label: str, **layout: Any) -> Part:
    """A chart; `label` says in words what it shows."""
    return html.Div(
        dcc.Graph(
            id=id,
            figure={"data": list(data), "layout": plot_layout(height=height, **layout)},
            config={"displayModeBar": False, "responsive": True},
            style={"height": f"{height}px"},
        ),
        role="img",
        className="plot",
        **{"aria-label": label},
    )


def known(who: Reader) -> str:
    """The name a reader would sign a label with."""
    return who.actor.partition(" (key ")[0] if who.signed_in else ""
