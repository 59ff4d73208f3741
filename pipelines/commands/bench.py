"""Measurements that anyone can repeat."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.bench.road import Report

DEFAULT_RATE = 10_000.0  # messages per second


def road(
    context: typer.Context,
    rate: Annotated[
        list[float] | None, typer.Option("--rate", min=1, help="messages per second to hold; repeatable")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="how long to hold each rate")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Measure the whole road under load on a stack of its own; with a subcommand, one part of it alone."""
    if context.invoked_subcommand:
        return
    from rich.console import Console

    from pipelines.bench.road import bench_road

    with Console(stderr=True).status("starting") as status:
        report = bench_road(rate or [DEFAULT_RATE], seconds, status.update)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        _print_road(report)
    if not all(run.complete for run in report.runs):
        typer.echo("not every record came to its outcome and document", err=True)
        raise typer.Exit(1)


def _print_road(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the road, Elasticsearch included")
    for name in ("rate", "decided", "per s", "p50 s", "p95 s", "p99 s", "max s", "lag", "core-µs", "GiB"):
        table.add_column(name, justify="right")
    for run in report.runs:
        table.add_row(
            f"{run.rate:,.0f}", f"{run.decided:,}", f"{run.per_second:,.0f}", f"{run.p50_s:.2f}", f"{run.p95_s:.2f}",
            f"{run.p99_s:.2f}", f"{run.max_s:.2f}", f"{run.lag_at_end:,}", f"{run.core_us_total:.1f}",
            f"{run.memory_gib:.1f}",
        )  # fmt: skip
    console = Console(soft_wrap=True)
    console.print(table)
    for run in report.runs:
        costs = ", ".join(f"{name} {cost:.1f}" for name, cost in run.core_us_per_event.items())
        console.print(f"core-µs per record at {run.rate:,.0f}/s: {costs}")
    console.print(", ".join(f"{name}: {value}" for name, value in report.conditions.items()))
    console.print(", ".join(f"{name}: {value}" for name, value in report.machine.items()))


def parser(
    rows: Annotated[int, typer.Option("--rows", min=1, max=1_000_000, help="messages in one batch")] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of lines")] = False,
) -> None:
    """How long the parser takes per message on one core, 2 % of the messages being defective."""
    from pipelines.bench.parser import bench_parser

    result = bench_parser(rows)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    typer.echo(
        f"{result.us_per_message:.2f} µs per message on one core (median of {result.repeats} runs "
        f"{result.us_per_message_median:.2f}), {result.rows:,} messages of {result.bytes_per_message} bytes, "
        f"{result.rejects:,} of them dead letters"
    )
    typer.echo(f"{result.us_parse_one:.0f} µs for one message alone; {result.warm_s:.1f} s to be ready")
    typer.echo(result.machine.line())


def kernel(
    payments: Annotated[int, typer.Option("--payments", min=1, max=2_000_000, help="payments folded")] = 300_000,
    users: Annotated[int, typer.Option("--users", min=1, max=200_000, help="users they belong to")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of lines")] = False,
) -> None:
    """How long the feature kernel takes per payment on one core, for users who have paid as often before."""
    from pipelines.bench.kernel import bench_kernel

    result = bench_kernel(payments, users)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    typer.echo(
        f"fold: {result.us_fold:.2f} µs per payment on one core ({result.per_second:,.0f}/s), "
        f"{result.features} features, {result.payments:,} payments of {result.users:,} users"
    )
    typer.echo(f"hash: {result.us_hash:.2f} µs per payment; seal or check: {result.us_seal:.2f} µs per user")
    typer.echo(f"{result.us_preview:.0f} µs for one payment alone; {result.warm_s:.1f} s to be ready")
    typer.echo(result.machine.line())


def users(
    seen: Annotated[
        int, typer.Option("--seen", min=10_000, max=5_000_000, help="users with a state, in the second of two runs")
    ] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of lines")] = False,
) -> None:
    """What a payment's state costs with 10,000 and with a million users ever seen, and with a single one."""
    from pipelines.bench.users import bench_users

    result = bench_users(seen)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    for known, cost, fold in zip(result.seen, result.us_state, result.us_fold, strict=True):
        typer.echo(
            f"{known:,} users seen: {cost:.2f} core-µs per payment to load, fold and save, {fold:.2f} of it the fold"
        )
    typer.echo(
        f"{result.ratio:.2f} times as much; {result.payments:,} payments of {result.active:,} users,"
        f" Redis holds {result.redis_gib:.2f} GiB"
    )
    typer.echo(
        f"one user with {result.hot_payments:,} payments: {result.us_hot:.2f}, {result.us_hot_fold:.2f} of it the fold"
    )
    typer.echo(result.machine.line())


def train(
    updates: Annotated[int, typer.Option("--updates", min=1, max=10_000, help="optimiser steps")] = 60,
    batch_rows: Annotated[int, typer.Option("--batch-rows", min=1, max=65_536, help="rows per step")] = 8_192,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of lines")] = False,
) -> None:
    """How fast the autoencoder trains on one core."""
    from pipelines.bench.train import bench_train

    result = bench_train(updates, batch_rows)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    typer.echo(
        f"{result.per_second:,.0f} rows per second and epoch on {result.device}: {result.updates} steps of "
        f"{result.batch_rows:,} rows of {result.columns} columns in {result.seconds:.2f} s"
    )
    typer.echo(result.machine.line())


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure: every number comes with the machine it was taken on.")
    group.callback(invoke_without_command=True)(road)
    group.command("parser")(parser)
    group.command("kernel")(kernel)
    group.command("users")(users)
    group.command("train")(train)
    app.add_typer(group, name="bench")
