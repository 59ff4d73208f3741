"""User states as a whole: `vigil state show`, `stats`, `snapshot`, `rebuild` and `sweep`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo import settings as configuration

if TYPE_CHECKING:
    from pipelines.state.show import Record

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def show(
    user: Annotated[str, typer.Argument(help="A user_id.")],
    as_json: AsJson = False,
) -> None:
    """Decode what is remembered of a user: aggregates, tiles, the last payments without their ids."""
    from pipelines.state.show import show as read

    record = read(configuration.load(), user)
    if as_json:
        typer.echo(json.dumps(record.as_json()))
    else:
        _print(record)


def stats(as_json: AsJson = False) -> None:
    """Count the records and their bytes."""
    from pipelines.state.show import sizes

    found = sizes(configuration.load())
    told = found.as_json()
    if as_json:
        typer.echo(json.dumps(told))
        return
    table = Table("partition", box=SIMPLE)
    for heading in ("records", "bytes"):
        table.add_column(heading, justify="right")
    for partition, row in told["partitions"].items():
        table.add_row(partition, f"{row['records']:,}", f"{row['bytes']:,}")
    table.add_row("all", f"{told['records']:,}", f"{told['bytes']:,}")
    Console().print(table)
    typer.echo(f"largest record {told['largest']:,} bytes; Redis uses {told['memory']:,} bytes for all it holds")


def snapshot(as_json: AsJson = False) -> None:
    """Keep all states as a snapshot to rebuild from; the stream may run. The lifecycle worker does it every day."""
    from pipelines.state import snapshots

    settings = configuration.load()
    kept = snapshots.take(settings)
    if as_json:
        typer.echo(json.dumps(kept.as_json()))
        return
    size = sum(part.bytes for part in kept.parts.values())
    typer.echo(f"{kept.records:,} records, {size:,} bytes: {snapshots.folder_of(settings) / kept.name}")
    for partition, part in kept.parts.items():
        typer.echo(f"  partition {partition}: {part.records:,} records, complete up to offset {part.folded_until:,}")


def rebuild(
    from_history: Annotated[
        str | None, typer.Option(metavar="NAME", help="Begin from this data set's history, not from a snapshot.")
    ] = None,
    partition: Annotated[
        list[int], typer.Option(metavar="P", help="Only this partition; may be given several times.")
    ] = [],  # noqa: B006  # typer reads the default, nobody changes it
    as_json: AsJson = False,
) -> None:
    """Make the user states anew from snapshot and log, up to what is decided; refused while the stream runs."""
    from pipelines.state.rebuild import rebuild as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("folding", total=None)
        done = run(
            configuration.load(),
            partition,
            from_history,
            lambda folded, total: bar.update(task, completed=folded, total=total),
        )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    for why in done.passed_over:
        typer.echo(f"passed over {why}")
    for one in done.partitions:
        typer.echo(
            f"partition {one.partition}: {one.users:,} users from {one.source}"
            f" and {one.payments:,} payments of offsets {one.start:,} to {one.until:,}"
        )
    if done.merchants:
        typer.echo(f"merchants: snapshot {done.merchants} is back")
    if done.merchants_lost:
        lost = f"merchants: snapshot {done.merchants_lost} is nowhere to be found"
        typer.echo(f"{lost}; merchants count as unknown until the lifecycle worker makes the next one", err=True)


def sweep(as_json: AsJson = False) -> None:
    """Delete the records of users silent for so long that the kernel would start them afresh. Daily by the worker."""
    from pipelines.state.sweep import sweep as run

    done = run(configuration.load())
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    else:
        typer.echo(f"{done.swept:,} of {done.records:,} records swept")


def _print(record: "Record") -> None:
    console = Console()
    console.print(
        f"{record.user_id}: partition {record.partition}, layout {record.layout}, {record.bytes:,} bytes",
        highlight=False,
        markup=False,
    )
    aggregates = Table(box=SIMPLE, show_header=False)
    for name, value in record.aggregates.items():
        aggregates.add_row(name, _text(value))
    for name, count in record.known.items():
        aggregates.add_row(f"{name} known", f"about {count}")
    console.print(aggregates)
    for title, tiles in (("hour", record.hours), ("day", record.days)):
        table = Table(title, box=SIMPLE)
        for heading in ("payments", "amount"):
            table.add_column(heading, justify="right")
        for begins, count, amount in tiles:
            table.add_row(begins[:16], str(count), f"{amount:,.2f}")
        console.print(table)
    ring = Table("last payments", box=SIMPLE)
    ring.add_column("amount", justify="right")
    for heading in ("merchant", "location", "method"):
        ring.add_column(heading)
    for payment in record.ring:
        ring.add_row(payment["time"][:19], f"{payment['amount']:,.2f}", *list(payment.values())[2:])
    console.print(ring)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def register(app: typer.Typer) -> None:
    state = typer.Typer(help="User states: shown, kept as snapshots, rebuilt, swept.", no_args_is_help=True)
    for command in (show, stats, snapshot, rebuild, sweep):
        state.command()(command)
    app.add_typer(state, name="state")
