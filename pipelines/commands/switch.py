"""`vigil switch`: keep the stream from taking payments, or from asking the model, and see who did."""

import getpass
import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.switches import INTAKE, PAUSED, RULES_ONLY, RUNNING, SCORED, SCORING
from pipelines.commands.features import show
from pipelines.commands.model import JsonOption

ReasonOption = Annotated[str, typer.Option("--reason", help="why; kept in the audit log")]


def pause(reason: ReasonOption, as_json: JsonOption = False) -> None:
    """Keep batches from beginning; the one under way is finished. Payments wait in Kafka, none is skipped."""
    _throw(INTAKE, PAUSED, reason, as_json)


def resume(reason: ReasonOption, as_json: JsonOption = False) -> None:
    """Go on where the stream was paused."""
    _throw(INTAKE, RUNNING, reason, as_json)


def rules_only(reason: ReasonOption, as_json: JsonOption = False) -> None:
    """Decide without asking the model: payments go to review, unscored as RULES_ONLY. `vigil backfill` scores them."""
    _throw(SCORING, RULES_ONLY, reason, as_json)


def scored(reason: ReasonOption, as_json: JsonOption = False) -> None:
    """Ask the model again."""
    _throw(SCORING, SCORED, reason, as_json)


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50, as_json: JsonOption = False
) -> None:
    """What was thrown, newest first: when, by whom, from what to what, why."""
    from pipelines import switches

    _tell(switches.history(configuration.load(), limit), ("at", "name", "before", "state", "actor", "reason"), as_json)


def standing(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show how the switches of the stream stand, or throw one; the stream looks before each batch."""
    from pipelines import switches

    if context.invoked_subcommand is None:
        rows = switches.standing(configuration.load())
        _tell(rows, ("name", "state", "changed_at", "actor", "reason"), as_json)


def _throw(name: str, state: str, reason: str, as_json: bool) -> None:
    from pipelines import switches

    changed = switches.throw(configuration.load(), name, state, getpass.getuser(), reason)
    if as_json:
        typer.echo(json.dumps({"name": name, "state": state, "changed": changed}))
    else:
        typer.echo(f"{name} is {state}" + ("" if changed else ", as it was"))


def _tell(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    from feature_repo.transaction import rfc3339

    said = [{c: rfc3339(row[c]) if c in ("at", "changed_at") else row[c] for c in columns} for row in rows]
    if as_json:
        typer.echo(json.dumps(said))
        return
    table = Table(*columns, box=SIMPLE)
    for row in said:
        table.add_row(*row.values())
    show(table)


def register(app: typer.Typer) -> None:
    switch = typer.Typer()
    switch.callback(invoke_without_command=True)(standing)
    for name, command in (
        ("pause", pause), ("resume", resume), ("rules-only", rules_only), ("scored", scored), ("history", history)
    ):  # fmt: skip
        switch.command(name)(command)
    app.add_typer(switch, name="switch")
