"""Measurements that anyone can repeat."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.bench.road import Report


TABLE_WIDTH = 130  # narrower, its columns would be cut


class Roads(StrEnum):
    decisions = "decisions"
    everything = "everything"
    both = "both"


def road(
    context: typer.Context,
    which: Annotated[
        Roads, typer.Option("--road", help="decisions alone, everything (Elasticsearch too), or one after the other")
    ] = Roads.both,
    rate: Annotated[
        list[float] | None,
        typer.Option("--rate", min=1, help="payments per second to hold; repeatable; shares of the most when left out"),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="how long to hold each rate")] = 60,
    backlog: Annotated[
        int, typer.Option("--backlog", min=100_000, max=3_000_000, help="payments to work off as fast as possible")
    ] = 2_000_000,
    out: Annotated[Path | None, typer.Option("--out", help="folder for bench.json and bench.png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Measure the whole road under load on a stack of its own; with a subcommand, one part of it alone."""
    if context.invoked_subcommand:
        return
    from rich.console import Console

    from pipelines.bench.road import DECISIONS, EVERYTHING, bench_road

    roads = [DECISIONS, EVERYTHING] if which is Roads.both else [which.value]
    with Console(stderr=True).status("starting") as status:
        report = bench_road(roads, rate or [], seconds, backlog, status.update)
    if out:
        from pipelines.bench.plot import plot

        out.mkdir(parents=True, exist_ok=True)
        (out / "bench.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
        plot(report, out / "bench.png")
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

    console = Console(soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)
    for name in dict.fromkeys(run.road for run in report.runs):
        runs = [run for run in report.runs if run.road == name]
        table = Table(title=f"the road: {name}")
        for column in (
            "load", "records", "per s", "p50 s", "p95 s", "p99 s", "max s", "lag", "flagged", "core-µs",
            "per s and core", "GiB", "grown",
        ):  # fmt: skip
            table.add_column(column, justify="right")
        for run in runs:
            took = [run.p50_s, run.p95_s, run.p99_s, run.max_s]
            table.add_row(
                "backlog" if run.rate is None else f"{run.rate:,.0f}/s", f"{run.decided:,}", f"{run.per_second:,.0f}",
                *("" if value is None else f"{value:.2f}" for value in took),
                "" if run.lag_at_end is None else f"{run.lag_at_end:,}", f"{run.flagged:.1%}",
                f"{run.core_us_total:.1f}", f"{run.per_core:,.0f}", f"{run.memory_gib:.1f}", f"{run.grown_gib:+.2f}",
            )  # fmt: skip
        console.print(table)
        for run in runs:
            costs = ", ".join(f"{part} {cost:.1f}" for part, cost in sorted(run.core_us.items(), key=lambda x: -x[1]))
            load = "of the backlog" if run.rate is None else f"at {run.rate:,.0f}/s"
            console.print(f"core-µs per record {load}: {costs}")
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


def api(
    rows: Annotated[
        int, typer.Option("--rows", min=1_000, max=100_000_000, help="decisions in PostgreSQL")
    ] = 10_000_000,
    documents: Annotated[int, typer.Option("--documents", min=1_000, help="of them in Elasticsearch")] = 1_000_000,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="how long each question is asked")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of lines")] = False,
) -> None:
    """How the query service answers over so many decisions, on a stack of its own."""
    from rich.console import Console

    from pipelines.bench.api import DETECT_RATE, PAGE, bench_api

    with Console(stderr=True).status("starting") as status:
        result = bench_api(rows, documents, seconds, status.update)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    lists, cost = result.list_load, result.list_core_us
    typer.echo(
        f"last {PAGE} payments of a user: {result.list_per_core:,.0f} requests per second and core of API and "
        f"PostgreSQL ({', '.join(f'{name} {us:.0f}' for name, us in cost.items())} core-µs each); "
        f"{lists.per_second:,.0f}/s here, p50 {lists.p50:.1f} ms, p99 {lists.p99:.1f} ms"
    )
    typer.echo(f"  over {result.rows:,} rows of {result.users:,} users in {result.days} days")
    found = result.detect
    typer.echo(
        f"/detect at {DETECT_RATE:.0f}/s: p50 {found.p50:.1f} ms, p95 {found.p95:.1f} ms, p99 {found.p99:.1f} ms"
    )
    found = result.search
    typer.echo(
        f"search in {result.documents:,} documents: p50 {found.p50:.1f} ms, p95 {found.p95:.1f} ms, "
        f"p99 {found.p99:.1f} ms ({found.per_second:.0f}/s)"
    )
    typer.echo(", ".join(f"{name}: {value}" for name, value in result.machine.items()))


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure: every number comes with the machine it was taken on.")
    group.callback(invoke_without_command=True)(road)
    group.command("parser")(parser)
    group.command("kernel")(kernel)
    group.command("users")(users)
    group.command("train")(train)
    group.command("api")(api)
    app.add_typer(group, name="bench")
