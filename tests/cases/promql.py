"""As much of PromQL as tells a broken expression from a sound one, without Prometheus at hand."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric

INFRA = Path(__file__).parents[2] / "infra"
ALERTS = INFRA / "prometheus" / "alerts.yml"
BOARD = INFRA / "grafana" / "dashboards" / "vigil.json"

TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<text>"[^"]*") | (?P<range>\[(\d+[smhdw]|\$__rate_interval)\])
    | (?P<number>\d+(\.\d+)?(e\d+)?) | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<sign>==|!=|=~|!~|>=|<=|[-+*/%^<>=(){},])""",
    re.VERBOSE,
)
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool"}
FUNCTIONS = {
    "sum",
    "max",
    "min",
    "avg",
    "count",
    "rate",
    "increase",
    "changes",
    "time",
    "clamp_min",
    "histogram_quantile",
}
OF_RANGES = {"rate", "increase", "changes"}
LABELS_FOLLOW = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OF_PROMETHEUS = {"up": {"job", "service"}}  # made by the scrape itself
OF_TARGETS = {"job", "service", "instance"}  # labels the scrape adds


class BadExpression(ValueError):
    pass


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and every expression of rules and board."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def samples(families: list[Metric]) -> set[str]:
    """Names under which the values of these families are stored, those without a value yet included."""
    ends = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_sum", "_count"),
        "summary": ("_sum", "_count"),
    }
    return {family.name + end for family in families for end in ends.get(family.type, ("",))}


def check(expression: str) -> tuple[set[str], set[str]]:
    """Metrics and labels an expression names. Raises BadExpression."""
    tokens = list(_tokens(expression))
    metrics, labels, open_signs = set(), set(), []
    labels_until = 0  # depth of brackets inside which names are labels
    before = ""
    for place, (kind, text) in enumerate(tokens):
        following = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        if text in ("(", "{"):
            open_signs.append(text)
            if not labels_until and (text == "{" or before in LABELS_FOLLOW):
                labels_until = len(open_signs)
        elif text in (")", "}"):
            if not open_signs or open_signs.pop() + text not in ("()", "{}"):
                raise BadExpression(f"{text} closes nothing in {expression}")
            if len(open_signs) < labels_until:
                labels_until = 0
        elif kind == "name":
            if labels_until:
                labels.add(text)
            elif following == "(" and text not in WORDS:
                if text not in FUNCTIONS:
                    raise BadExpression(f"{text} is no function, in {expression}")
            elif text in FUNCTIONS:
                if following not in LABELS_FOLLOW:
                    raise BadExpression(f"{text} is applied to nothing in {expression}")
            elif text not in WORDS:
                metrics.add(text)
        before = text
    if open_signs:
        raise BadExpression(f"{open_signs[-1]} is never closed in {expression}")
    for call in re.finditer(r"\b(\w+)\(([a-z_]+(?:\{[^}]*\})?)(\[)?", expression):
        if call[1] in OF_RANGES and not call[3]:
            raise BadExpression(f"{call[1]} wants a range in {expression}")
    return metrics, labels


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        match = TOKEN.match(expression, at)
        if match is None:
            raise BadExpression(f"not understood from {expression[at:]!r} on")
        if match.lastgroup != "space" and match.group("space") is None:
            kind = next(name for name in ("text", "range", "number", "name", "sign") if match.group(name) is not None)
            yield kind, match.group(kind)
        at = match.end()
