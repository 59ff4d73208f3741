"""Command: how far the payments after training have drifted from those a version was calibrated on."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from feature_repo import settings as configuration
from pipelines.commands.model import JsonOption


def drift(
    model: Annotated[str, typer.Option("--model", help="a version, latest or an alias")] = "champion",
    data: Annotated[
        str | None, typer.Option("--data", help="data set to look at; default: what the version was trained on")
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="first day, UTC; default: the day after training"),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="last day, inclusive, UTC; default: the data set's last"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare each day after training with the calibration window; an alarm is information, and the exit code 0.

    The report goes to the version's run in MLflow, as a page and as metrics.
    """
    from pipelines.drift import report
    from pipelines.drift.run import watch

    begins, ends = (day.date() if day else None for day in (first, last))
    with Console(stderr=True).status("comparing"):
        watched = watch(configuration.load(), model, data, begins, ends, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(watched.said))
        return
    table = Table(*report.HEADINGS, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for day in watched.drift.days:
        table.add_row(*report.shown(day))
    Console().print(table)
    for line in report.sentences(watched.said, watched.drift):
        typer.echo(line)


def register(app: typer.Typer) -> None:
    app.command()(drift)
