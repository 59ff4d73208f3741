"""Commands about live decisions as data: export them, retrain on them, see whether their features are right."""

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from feature_repo import settings as configuration
from pipelines.commands.model import JsonOption

LIVE = "live"
SAMPLE = 1_000


def export(
    name: Annotated[str, typer.Option("--name", help="data set to make, or an earlier export to replace")] = LIVE,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="first event day, UTC; default: all")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="last event day, inclusive, UTC; default: all")
    ] = None,
    with_history: Annotated[
        bool, typer.Option("--with-history", help="begin with the data set whose replay seeded the live states")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a data set of what the stream decided, with the vectors it logged: for train, drift, score and the gate."""
    from pipelines.live import export as run

    begins, ends = (day.date() if day else None for day in (first, last))
    with Console(stderr=True).status("exporting"):
        done = run(configuration.load(), name, begins, ends, with_history=with_history)
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    typer.echo(
        f"{done.name}: {done.payments:,} payments, {done.vectors:,} with vectors; events {done.first} to {done.last}"
    )
    if done.history:
        typer.echo(f"  {done.from_history:,} of them from data set {done.history}")
    for count, what in (
        (done.repeated_ids, "left out: their id was used before"),
        (done.without_vector, "have no vector: another currency"),
        (done.of_other_features, "have no vector: it lacks features of today's catalogue"),
    ):
        if count:
            typer.echo(f"  {count:,} {what}")


def retrain(
    data: Annotated[
        str | None,
        typer.Option("--data", help="data set to judge and train on; default: live decisions, exported anew"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="train without an alarm")] = False,
    as_json: JsonOption = False,
) -> None:
    """Where the champion drifts, train its recipe on newer days, register and put on trial; never promotes."""
    from pipelines.retrain import retrain as run

    settings = configuration.load()
    with Console(stderr=True).status("loading the champion") as status:
        done = run(settings, data, getpass.getuser(), datetime.now(UTC), force=force, progress=status.update)
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    elif done.version is None:
        typer.echo(f"champion {done.champion} does not drift on data set {done.data}: nothing to do")
    else:
        typer.echo(f"version {done.version} is the challenger of champion {done.champion}: {'; '.join(done.why)}")
        typer.echo(f"  recipe {done.recipe}, data set {done.data}, {done.train_from} to {done.train_to}")


def parity(
    sample: Annotated[int, typer.Option("--sample", min=1, help="decided offsets to draw")] = SAMPLE,
    as_json: JsonOption = False,
) -> None:
    """Recompute sampled decisions from the raw payments and empty states; exits 10 where one of them differs.

    The rate goes to MLflow. Reads the payments topic once, from its beginning.
    """
    from pipelines.parity.run import check, require

    with Console(stderr=True).status("recomputing"):
        found = check(configuration.load(), sample)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        typer.echo(f"{found.checked:,} decisions recomputed, {len(found.mismatches):,} differ")
        for reason, count in found.unchecked.items():
            typer.echo(f"  {count:,} could not be checked: {reason}")
    require(found)


def register(app: typer.Typer) -> None:
    for command in (export, retrain, parity):
        app.command()(command)
