"""Commands about features: the catalogue, a user's live aggregates, a history's vectors."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.features import CATALOGUE, NAMES, feature_set_id

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def replay(
    data: Annotated[str, typer.Option("--data", help="data set: a folder under $VIGIL_HOME/data")],
    online: Annotated[bool, typer.Option("--online", help="also fill the live user states in Redis")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace live states the stream already uses")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a history through the feature kernel: vectors for training and, with --online, the live state."""
    from pipelines.replay import replay as run

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"replaying {data}", total=None)
        done = run(
            configuration.load(),
            data,
            online=online,
            force=force,
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    rate = done.payments / done.seconds
    typer.echo(f"{done.payments:,} payments of {done.users:,} users in {done.seconds:.1f} s ({rate:,.0f}/s)")
    typer.echo(f"{done.rows:,} vectors; {done.late:,} late")
    typer.echo(
        f"left out: {done.duplicates:,} repeats, {done.conflicts:,} conflicting ids, "
        f"{done.other_currency:,} in another currency"
    )
    if online:
        typer.echo(f"{done.states_online:,} user states are live")


def features(
    user: Annotated[str | None, typer.Option("--user", help="show this user's live aggregates")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the feature catalogue, or what the online store knows of one user."""
    if user is not None:
        _print_user(user, as_json)
        return
    if as_json:
        entries = [
            {"name": f.name, "window": f.window, "meaning": f.meaning, "reason": f.reason, "version": f.version}
            for f in CATALOGUE
        ]
        typer.echo(json.dumps({"feature_set_id": feature_set_id(NAMES), "features": entries}))
        return
    table = Table(title=f"{len(CATALOGUE)} features, {feature_set_id(NAMES)}")
    for heading in ("name", "window", "meaning", "reason"):
        table.add_column(heading)
    for f in CATALOGUE:
        table.add_row(f.name, f.window, f.meaning, f.reason)
    Console().print(table)


def _print_user(user: str, as_json: bool) -> None:
    from feature_repo import definitions
    from feature_repo.activity import AGGREGATES

    store = definitions.store(configuration.load())
    names = [f"user_activity:{aggregate.name}" for aggregate in AGGREGATES]
    answer = store.get_online_features(features=names, entity_rows=[{"user_id": user}]).to_dict()
    values = {a.name: answer[a.name][0] for a in AGGREGATES}
    if as_json:
        typer.echo(json.dumps({"user_id": user, **values}, default=str))
        return
    if values["payments"] is None:
        typer.echo(f"nothing is known of {user}: no payment of theirs has been folded in")
        return
    table = Table(title=user)
    for heading in ("aggregate", "value", "meaning"):
        table.add_column(heading)
    for aggregate in AGGREGATES:
        value = values[aggregate.name]
        table.add_row(aggregate.name, "-" if value is None else str(value), aggregate.meaning)
    Console().print(table)


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)
    app.command("features")(features)
