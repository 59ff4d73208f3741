"""Drift as a page with plots and as numbers, kept with the run of the version it speaks of."""

import base64
import html
import io
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.settings import Settings
from pipelines.drift.judge import ALERT_RATE, FEATURE, PRECISION, REASONS, SCORE, Day, Drift
from training.registration import mlflow_client

FOLDER = "drift"  # among the run's artefacts
METRIC = "drift_"  # before a statistic's name; the step is the day, counted from 1970

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1c1c1c}
table{border-collapse:collapse;margin-bottom:1.5rem}td,th{text-align:left;padding:.3rem .8rem;
border-bottom:1px solid #ddd}.alarm{color:#b00020;font-weight:600}img{max-width:100%}"""


def log(settings: Settings, run_id: str, said: dict[str, Any], drift: Drift) -> None:
    """JSON, page and metrics to the run, each day's numbers at that day. Raises DependencyDown."""
    with tempfile.TemporaryDirectory() as folder, mlflow_client(settings) as mlflow:
        text, shown = Path(folder) / "drift.json", Path(folder) / "drift.html"
        text.write_text(json.dumps(said, indent=1), encoding="utf-8")
        shown.write_text(page(said, drift), encoding="utf-8")
        client = mlflow.MlflowClient()
        for file in (text, shown):
            client.log_artifact(run_id, str(file), FOLDER)
        for day in drift.days:
            client.log_batch(run_id, metrics=[mlflow.entities.Metric(*one) for one in metrics(day)])


def metrics(day: Day) -> list[tuple[str, float, int, int]]:
    """Name, value, time in milliseconds and step of everything that has a number that day."""
    midnight = datetime(day.day.year, day.day.month, day.day.day, tzinfo=UTC)
    step = midnight.timestamp() // 86_400
    return [
        (METRIC + name, reading.value, int(midnight.timestamp() * 1_000), int(step))
        for name, reading in day.readings.items()
        if reading.value is not None
    ]


def sentences(said: dict[str, Any], drift: Drift) -> list[str]:
    """What the report comes to: the window, what could not be judged, and the alarms."""
    payments = sum(day.payments for day in drift.days)
    window = f"{len(drift.days)} days with {payments:,} payments, {said['from']} to {said['to']}"
    told = [
        f"Version {said['version']} on data set {said['data']}: {window}, labels as of {said['labels_as_of'][:16]}."
    ]
    if drift.too_small:
        most = max(day.payments for day in drift.too_small)
        told.append(f"Too little to judge on {len(drift.too_small)} of these days: {most:,} payments at most.")
    if not any(day.readings[PRECISION].value is not None for day in drift.days):
        most = max(day.readings[PRECISION].seen for day in drift.days)
        told.append(
            f"No average precision: at most {most:,} frauds are known in any week, or its labels are too young."
        )
    first = {alarm.statistic: alarm for alarm in reversed(drift.alarms)}
    for alarm in sorted(first.values(), key=lambda alarm: alarm.day):
        days = "with the day before " if alarm.days == 2 else "by itself "
        told.append(
            f"Alarm {alarm.day}: {alarm.statistic} is {alarm.value:.3g}, {days}{alarm.strength:.1f} times what chance "
            "and ordinary days explain."
        )
    return told if first else [*told, "No alarm."]


def shown(day: Day) -> list[str]:
    """One line of the table: the day and its numbers, of the features the one furthest off."""
    cells = [day.day.isoformat(), f"{day.payments:,}", _number(day, ALERT_RATE), _number(day, SCORE)]
    features = [name for name, reading in day.readings.items() if name.startswith(FEATURE) and reading.strength]
    furthest = max(features, key=lambda name: day.readings[name].strength or 0.0, default=None)
    cells.append(f"{_number(day, furthest)} {furthest.removeprefix(FEATURE)}" if furthest else "-")
    return [*cells, _number(day, REASONS), _number(day, PRECISION)]


HEADINGS = ("day", "payments", "alerts", "score PSI", "furthest feature's PSI", "reasons PSI", "AP")


def _number(day: Day, name: str) -> str:
    value, strength = day.readings[name].value, day.readings[name].strength
    if value is None:
        return "-"
    return f"{value:.4f}" + ("!" if strength is not None and strength > 1 else "")


def page(said: dict[str, Any], drift: Drift) -> str:
    """Everything of the report for a reader; nothing is loaded from elsewhere."""
    title = f"Drift: version {said['version']}"
    parts = [
        f"<p{' class=alarm' if text.startswith('Alarm') else ''}>{html.escape(text)}</p>"
        for text in sentences(said, drift)
    ]
    parts.append(
        "<p>PSI is what lies beyond the mean of a sample without drift, so it may be below 0. An exclamation mark "
        "stands beyond the limit; two days in a row beyond it together, or one three times beyond it, are an alarm.</p>"
    )
    rows = [f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in shown(day))}</tr>" for day in drift.days]
    heading = "".join(f"<th>{html.escape(name)}" for name in HEADINGS)
    parts += [_plots(drift), f"<table><tr>{heading}</tr>{''.join(rows)}</table>"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def _plots(drift: Drift) -> str:
    """Strength by day: 1 is the limit. The features are those that came nearest to it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import; no display needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    whole, features = figure.subplots(2, 1).flat
    names = list(drift.days[0].readings) if drift.days else []
    peaks = {name: max((day.readings[name].strength or 0.0 for day in drift.days), default=0.0) for name in names}
    furthest = sorted((name for name in names if name.startswith(FEATURE)), key=lambda name: -peaks[name])[:6]
    for place, chosen in ((whole, [ALERT_RATE, SCORE, REASONS, PRECISION]), (features, furthest)):
        for name in chosen:
            days = [day for day in drift.days if day.readings[name].strength is not None]
            place.plot([day.day for day in days], [day.readings[name].strength for day in days], ".-", label=name)
        place.axhline(1, color="#b00020", linewidth=1)
        place.set(ylabel="times the limit", ylim=(0, None))
        place.legend(fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return f'<img alt="strength by day" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'
