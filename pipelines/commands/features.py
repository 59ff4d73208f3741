"""Commands about features: the catalogue, what is known of a user or a merchant, a history's vectors."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration
from feature_repo.features import CATALOGUE, NAMES, RING_SIZE, feature_set_id

if TYPE_CHECKING:
    from pipelines.logged import Logged

WIDE = 160  # columns, where there is no terminal

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
    told = fetch(settings, data)
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
    if told is None:
        typer.echo("no stack was ever started here: labels are those of the history alone")


def features(
    user: Annotated[str | None, typer.Option("--user", help="what is known of this user now")] = None,
    transaction: Annotated[
        str | None, typer.Option("--transaction", help="features this payment was decided on, of --user if given")
    ] = None,
    merchant: Annotated[str | None, typer.Option("--merchant", help="what the snapshot says of it")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print the catalogue as a page")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the feature catalogue, or what is known of a user or merchant now, or of a payment when it was decided."""
    if merchant is not None and (user is not None or transaction is not None):
        raise BadConfiguration("--merchant goes with neither --user nor --transaction")
    if as_markdown and (as_json or any(asked is not None for asked in (user, transaction, merchant))):
        raise BadConfiguration("--markdown prints the catalogue and goes with no other option")
    if transaction is not None:
        _print_decision(transaction, user, as_json)
    elif user is not None:
        _print_user(user, as_json)
    elif merchant is not None:
        _print_merchant(merchant, as_json)
    elif as_markdown:
        from pipelines.catalogue import markdown

        typer.echo(markdown(), nl=False)
    else:
        _print_catalogue(as_json)


def _print_catalogue(as_json: bool) -> None:
    if as_json:
        entries = [asdict(f) | {"beyond_ring": f.beyond_ring} for f in CATALOGUE]
        typer.echo(json.dumps({"feature_set_id": feature_set_id(NAMES), "features": entries}))
        return
    table = Table(title=f"{len(CATALOGUE)} features, {feature_set_id(NAMES)}", box=SIMPLE)
    table.add_column("feature", no_wrap=True)
    for heading in ("window", f"over {RING_SIZE} payments", "meaning", "reason"):
        table.add_column(heading)
    for f in CATALOGUE:
        table.add_row(f.name, f.window, f.beyond_ring, f.meaning, f.reason)
    show(table)


def _print_user(user: str, as_json: bool) -> None:
    from feature_repo.activity import AGGREGATES
    from feature_repo.transaction import rfc3339

    values = _online("user_activity", [aggregate.name for aggregate in AGGREGATES], {"user_id": user})
    shown = {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in values.items()}
    if as_json:
        typer.echo(json.dumps({"user_id": user, **shown}))
        return
    if values["payments"] is None:
        typer.echo(f"nothing is known of {user}: no payment of theirs has been folded in")
        return
    table = Table(title=f"{user}, now", box=SIMPLE)
    table.add_column("aggregate", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning")
    for aggregate in AGGREGATES:
        table.add_row(aggregate.name, _text(shown[aggregate.name]), aggregate.meaning)
    show(table)


def _print_merchant(merchant: str, as_json: bool) -> None:
    from feature_repo import definitions
    from feature_repo.snapshot import COLUMNS

    values = _online(definitions.MERCHANT_VIEW, COLUMNS, {"merchant": merchant})
    if as_json:
        typer.echo(json.dumps({"merchant": merchant, **values}))
        return
    if values[COLUMNS[0]] is None:
        typer.echo(f"no snapshot knows {merchant}: nobody has paid there lately")
        return
    table = Table("column", "value", title=merchant, box=SIMPLE)
    for name, value in values.items():
        table.add_row(name, _text(value))
    show(table)


def _print_decision(transaction: str, user: str | None, as_json: bool) -> None:
    from feature_repo.transaction import rfc3339
    from pipelines.logged import logged

    row = logged(configuration.load(), transaction, user)
    if as_json:
        typer.echo(json.dumps(row.as_json()))
        return
    typer.echo(f"payment {row.transaction_id} of {row.user_id}: {row.amount:,.2f} {row.currency} at {row.merchant}")
    typer.echo(f"decided {rfc3339(row.processed_at)} as {row.decision_id}: {_verdict(row)}")
    typer.echo(
        f"model version {row.model_version or 'none'}, feature set {row.feature_set_id or 'none'}, "
        f"snapshot of merchants {row.side_inputs or 'none'}"
    )
    if row.features is None:
        typer.echo("no features were computed for it")
        return
    table = Table(box=SIMPLE)
    table.add_column("feature", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for heading in ("window", "meaning"):
        table.add_column(heading)
    declared = {f.name: f for f in CATALOGUE}
    for name, value in row.features.items():
        f = declared.get(name)
        table.add_row(name, _text(value), *((f.window, f.meaning) if f else ("-", "no longer computed")))
    show(table)


def _verdict(row: "Logged") -> str:
    if row.outcome != "scored":
        return f"{row.outcome} {row.unscored_reason or ''}".rstrip()
    reasons = [f"{reason} {share:.0%}" for reason, share in zip(row.anomaly_reasons, row.reason_shares, strict=True)]
    return f"{row.decision}, score {row.anomaly_score:.3f}" + "".join(f", {reason}" for reason in reasons)


def _online(view: str, names: Sequence[str], entity: dict[str, str]) -> dict[str, Any]:
    """One row of a view in the online store, through Feast. Raises BadConfiguration, StoreUnavailable."""
    from feast.errors import FeastObjectNotFoundException

    from feature_repo import definitions

    settings = configuration.load()
    registry = definitions.registry_path(settings)
    try:
        if not registry.exists():  # Feast would make an empty one
            raise FeastObjectNotFoundException
        store = definitions.store(settings)
        answer = store.get_online_features(features=[f"{view}:{name}" for name in names], entity_rows=[entity])
    except FeastObjectNotFoundException as error:
        raise BadConfiguration(f"{registry} knows no view {view}", remedy="vigil up, or feast apply") from error
    values = answer.to_dict()
    return {name: values[name][0] for name in names}


def _text(value: Any) -> str:
    """A value as a person reads it: six digits are enough."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def show(table: Table) -> None:
    """At the terminal's width; wide enough for whole lines where it goes to a file or a pipe."""
    console = Console()
    console.print(table) if console.is_terminal else Console(width=WIDE).print(table)


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)
    app.command("features")(features)
