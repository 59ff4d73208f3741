"""A run's report as one page that needs nothing beside itself."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

from serving.artifact import Manifest

_STYLE = """body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .6rem 0 1.4rem } td, th { padding: .2rem .8rem; text-align: right }
tr > :first-child { text-align: left } th { border-bottom: 1px solid #888 } img { max-width: 100% }"""

Rows = Mapping[str, Mapping[str, Any]]


def html(report: Mapping[str, Any], manifest: Manifest, curves_png: bytes) -> str:
    """The whole page; every text in it is escaped."""
    title = f"{manifest.model_name}, recipe {manifest.recipe}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _paragraph(
            f"Days {manifest.train_from} to {manifest.train_to}, labels as of {manifest.labels_as_of}, feature set "
            f"{manifest.feature_set_id}. Threshold {manifest.threshold:.4f} for an alert budget of "
            f"{manifest.alert_budget:.2%} of all payments. Judged on held-out days."
        ),
        "<h2>Against the baselines</h2>",
        _table({"this model": report["held_out"], **report["baselines"]}),
        "<h2>95 % intervals, bootstrap over users</h2>",
        _table({name: {"from": low, "to": high} for name, (low, high) in report["intervals"].items()}),
        f'<img alt="curves" src="data:image/png;base64,{b64encode(curves_png).decode()}">',
    ]
    for name, groups in report["slices"].items():
        parts += [f"<h2>By {escape(name.replace('_', ' '))}</h2>", _table(groups)]
    parts += ["<h2>Reasons</h2>", *_reasons(report["reasons"])]
    parts += ["<h2>Calibration</h2>", _table(report["calibration"]["share_at_or_above"])]
    parts += ["<h2>Rows</h2>", _table({name: {"payments": count} for name, count in report["rows"].items()})]
    columns = report["columns"]
    parts += ["<h2>Columns</h2>", _paragraph("Consumed: " + ", ".join(columns["kept"]))]
    parts += [_paragraph("Not consumed: " + (", ".join(columns["dropped"]) or "none"))]
    if columns["weights"]:
        parts += [_paragraph("How much each column's evidence counts, learned from the known frauds; 1 is the mean.")]
        parts += [_table({name: {"weight": weight} for name, weight in columns["weights"].items()})]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    return f"{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"


def _reasons(reasons: Mapping[str, Any]) -> list[str]:
    if "skipped" in reasons:
        return [_paragraph(f"Skipped: {reasons['skipped']}.")]
    whole = {name: value for name, value in reasons.items() if name != "mechanisms"}
    said = "Over true frauds in the highest 1 % of scores; a mechanism is shown from 50 of them on."
    return [_paragraph(said), _table({"all": whole, **reasons["mechanisms"]})]


def _table(rows: Rows) -> str:
    """One line per entry; the columns are all that any of them has."""
    if not rows:
        return _paragraph("Nothing is known to judge by.")
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    heading = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in ("", *names))
    lines = [
        f"<tr><td>{escape(str(label).replace('_', ' '))}</td>{''.join(_cell(row.get(name)) for name in names)}</tr>"
        for label, row in rows.items()
    ]
    return f"<table><tr>{heading}</tr>{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "<td>-</td>"
    whole = isinstance(value, int) or float(value).is_integer()
    return f"<td>{value:,.0f}</td>" if whole else f"<td>{value:.4g}</td>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
