"""Commands about features: the catalogue, what is known of a user or a merchant, a history's vectors."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.features import CATALOGUE, NAMES, RING_SIZE, feature_set_id

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def replay(
    data: Annotated[str, typer.Option("--data", help="data set: a folder under $VIGIL_HOME/data")],
    online: Annotated[bool, typer.Option("--online", help="also fill the live user states in Redis")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace live states the stream already uses")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a history through the feature kernel: vectors for training and, with --online, the live state."""
    from pipelines.labels import fetch
    from pipelines.replay import replay as run

    settings = configuration.load()
    fetch(settings, data)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"replaying {data}", total=None)
        done = run(
            settings,
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
    typer.echo(f"{done.snapshots:,} daily snapshots of merchants")
    if online:
        typer.echo(f"{done.states_online:,} user states and the newest snapshot are live")


def features(
    user: Annotated[str | None, typer.Option("--user", help="show this user's live aggregates")] = None,
    merchant: Annotated[str | None, typer.Option("--merchant", help="show what the snapshot says of it")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the feature catalogue, or what the online store knows of one user or merchant."""
    if user is not None:
        _print_user(user, as_json)
        return
    if merchant is not None:
        _print_merchant(merchant, as_json)
        return
    if as_json:
        entries = [asdict(f) | {"beyond_ring": f.beyond_ring} for f in CATALOGUE]
        typer.echo(json.dumps({"feature_set_id": feature_set_id(NAMES), "features": entries}))
        return
    table = Table(title=f"{len(CATALOGUE)} features, {feature_set_id(NAMES)}")
    for heading in ("name", "window", f"over {RING_SIZE} payments", "meaning", "reason"):
        table.add_column(heading)
    for f in CATALOGUE:
        table.add_row(f.name, f.window, f.beyond_ring, f.meaning, f.reason)
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


def _print_merchant(merchant: str, as_json: bool) -> None:
    from feature_repo import definitions
    from feature_repo.snapshot import COLUMNS

    store = definitions.store(configuration.load())
    names = [f"{definitions.MERCHANT_VIEW}:{name}" for name in COLUMNS]
    answer = store.get_online_features(features=names, entity_rows=[{"merchant": merchant}]).to_dict()
    values = {name: answer[name][0] for name in COLUMNS}
    if as_json:
        typer.echo(json.dumps({"merchant": merchant, **values}))
        return
    if values[COLUMNS[0]] is None:
        typer.echo(f"no snapshot knows {merchant}: nobody has paid there lately")
        return
    table = Table("column", "value", title=merchant)
    for name, value in values.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)
    app.command("features")(features)
