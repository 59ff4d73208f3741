"""Commands about the version on trial: put one there, end it, and compare two versions."""

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration
from pipelines.commands.model import JsonOption

if TYPE_CHECKING:
    from pipelines.challenger import Challenge
    from pipelines.compare.run import Compared


def set_version(
    version: Annotated[str, typer.Argument(help="a version, latest or an alias")], as_json: JsonOption = False
) -> None:
    """Score live traffic with a version beside the champion; it decides nothing. Exits 6 where it is unsound."""
    from pipelines.challenger import set_challenger

    _tell(set_challenger(configuration.load(), version, getpass.getuser()), as_json)


def unset(as_json: JsonOption = False) -> None:
    """End the trial; its scores stay with the payments that have one."""
    from pipelines.challenger import unset_challenger

    _tell(unset_challenger(configuration.load(), getpass.getuser()), as_json)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="a version, latest or an alias")] = "champion",
    b: Annotated[str, typer.Argument(metavar="B", help="a version, latest or an alias")] = "challenger",
    data: Annotated[
        str | None,
        typer.Option("--data", help="labelled data set; default: live payments that carry the scores of both"),
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="first day, UTC; default: all, or the day after training"),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="last day, inclusive, UTC; default: the last")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="share of payments that may be alerts; default: that of A")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions on the same payments, at the same alert budget.

    On live payments while B is on trial beside A, or was; where none carries both scores, on the days after training
    of the data set B was trained on. Differences are B minus A, with 95 % of draws of users.
    """
    from pipelines.compare.run import Question
    from pipelines.compare.run import compare as run

    if budget is not None and not 0 < budget < 1:
        raise BadConfiguration(f"the budget is a share of payments between 0 and 1, not {budget:g}")
    begins, ends = (day.date() if day else None for day in (first, last))
    with Console(stderr=True).status("comparing"):
        done = run(configuration.load(), Question(a, b, data, begins, ends, budget), datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    _show(done)


def _show(done: "Compared") -> None:
    console = Console()
    frauds = f"{done.frauds:,} frauds known" if done.frauds else "no fraud is known yet"
    typer.echo(f"Version {done.a} (A) and {done.b} (B) on {done.on}, {done.first} to {done.last}:")
    typer.echo(f"{done.payments:,} payments, {frauds}; alerts are the {done.budget:.2%} with the highest scores.")
    alerts, caught, ranks = (done.agreement[name] for name in ("alerts", "frauds_caught", "rank_correlation"))
    table = Table("at that budget", "A", "B", "both")
    table.add_row("alerts", f"{alerts['a']:,}", f"{alerts['b']:,}", f"{alerts['both']:,} ({alerts['overlap']:.0%})")
    table.add_row("frauds among them", f"{caught['a']:,}", f"{caught['b']:,}", f"{caught['both']:,}")
    console.print(table)
    typer.echo("Rank correlation: " + ("one of the two ranks nothing" if ranks is None else f"{ranks:.3f}"))
    if done.metrics:
        table = Table("metric", "A", "B", "B - A", "95 %")
        for pair in done.metrics:
            between = f"{pair.gain.low:+.3f} to {pair.gain.high:+.3f}"
            name = pair.name.replace("_", " ")
            table.add_row(name, f"{pair.a:.3f}", f"{pair.b:.3f}", f"{pair.gain.value:+.3f}", between)
        console.print(table)
    if done.slices:
        table = Table("average precision of", "frauds", "B - A", "95 %")
        for part in done.slices:
            between = f"{part.gain.low:+.3f} to {part.gain.high:+.3f}"
            table.add_row(part.name, f"{part.frauds:,}", f"{part.gain.value:+.3f}", between)
        console.print(table)


def _tell(done: "Challenge", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    elif not done.changed:
        typer.echo(f"version {done.challenger} is challenger already" if done.challenger else "there is no challenger")
    elif done.challenger:
        typer.echo(f"version {done.challenger} is challenger, before it was {done.before or 'none'}")
    else:
        typer.echo(f"version {done.before} is challenger no longer")


def register(app: typer.Typer) -> None:
    app.command()(compare)
    challenger = typer.Typer(help="The version on trial beside the champion.", no_args_is_help=True)
    challenger.command("set")(set_version)
    challenger.command("unset")(unset)
    app.add_typer(challenger, name="challenger")
