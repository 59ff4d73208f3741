"""The gate's verdict as JSON and as one page with its curves, kept with the candidate's run."""

import base64
import html
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from feature_repo.settings import Settings
from training.registration import mlflow_client

FOLDER = "gate"  # among the run's artefacts
GATE_TAG = "gate"  # of the version: `passed` or `refused`

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1c1c1c}
table{border-collapse:collapse;width:100%;margin-bottom:1.5rem}td,th{text-align:left;padding:.35rem .6rem;
border-bottom:1px solid #ddd}.failed{color:#b00020;font-weight:600}.passed{color:#1b6e3c}img{max-width:100%}"""
_OUTCOMES: dict[bool | None, str] = {True: "passed", False: "failed", None: "skipped"}


def log(settings: Settings, run_id: str, version: str, report: dict[str, Any]) -> None:
    """JSON and page to the run, the outcome as a tag of the version. Raises DependencyDown."""
    with tempfile.TemporaryDirectory() as folder, mlflow_client(settings) as mlflow:
        text, shown = Path(folder) / "gate.json", Path(folder) / "gate.html"
        text.write_text(json.dumps(report, indent=1), encoding="utf-8")
        shown.write_text(page(report), encoding="utf-8")
        client = mlflow.MlflowClient()
        if run_id:
            client.log_artifact(run_id, str(text), FOLDER)
            client.log_artifact(run_id, str(shown), FOLDER)
        client.set_model_version_tag(settings.model_name, version, GATE_TAG, outcome(report))


def outcome(report: dict[str, Any]) -> str:
    return "refused" if report["refusals"] else "passed"


def page(report: dict[str, Any]) -> str:
    """Everything of the report for a reader; nothing is loaded from elsewhere."""
    window = report.get("window") or {}
    sentences = [f"Version {report['version']} is {outcome(report)}."]
    if window.get("from"):
        sentences.append(
            f"Judged on {window['payments']:,} payments with {window['frauds']:,} frauds of {window['days']} mature "
            f"days, {window['from']} to {window['to']}; attempt {report['attempts']} on this window."
        )
    if report.get("override"):
        sentences.append(f"Overridden: {report['override']}")
    parts = [f"<p>{html.escape(' '.join(sentences))}</p>", _checks(report["checks"])]
    if "candidate" in report:
        parts += [_numbers(report), _slices(report.get("slices", [])), _curves(report)]
    title = f"Gate: version {report['version']}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def _checks(checks: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td class={_OUTCOMES[check['passed']]}>{_OUTCOMES[check['passed']]}</td><td><code>"
        f"{html.escape(check['name'])}</code></td><td>{html.escape(check['detail'])}</td></tr>"
        for check in sorted(checks, key=lambda check: check["passed"] is not False)
    ]
    return f"<table><tr><th>outcome<th>check<th>found</tr>{''.join(rows)}</table>"


def _numbers(report: dict[str, Any]) -> str:
    """Candidate and reference beside each other, with intervals where there are."""
    ours, theirs = report["candidate"], report["reference"]
    rows = []
    for name in ours["metrics"]:
        cells = [_cell(side, name) for side in (ours, theirs)]
        rows.append(f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{cells[0]}</td><td>{cells[1]}</td></tr>")
    heading = f"<tr><th>at a budget of {report['alert_budget']:.4f}<th>candidate<th>{html.escape(theirs['name'])}</tr>"
    return f"<table>{heading}{''.join(rows)}</table>"


def _cell(side: dict[str, Any], name: str) -> str:
    value = side.get("metrics", {}).get(name)
    if value is None:
        return "-"
    interval = side["intervals"].get(name)
    return f"{value:,.4g}" + (f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "")


def _slices(slices: list[dict[str, Any]]) -> str:
    rows = []
    for part in slices:
        gain = "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**part["gain"])
        style = " class=failed" if part["lost"] else ""
        rows.append(f"<tr><td>{html.escape(part['name'])}</td><td>{part['frauds']:,}</td><td{style}>{gain}</td></tr>")
    return f"<table><tr><th>slice<th>frauds<th>gain of average precision</tr>{''.join(rows)}</table>"


def _curves(report: dict[str, Any]) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import; no display needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    precision, roc = figure.subplots(1, 2).flat
    for name, side in (("candidate", report["candidate"]), (report["reference"]["name"], report["reference"])):
        curve = side.get("curves")
        if curve:
            precision.plot(curve["recall"], curve["precision"], label=name)
            roc.plot(curve["false_positive_rate"], curve["recall"], label=name)
    precision.set(xlabel="recall", ylabel="precision", ylim=(0, 1))
    roc.set(xlabel="false positive rate", ylabel="recall", ylim=(0, 1), xscale="log")
    precision.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return f'<img alt="curves" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'
