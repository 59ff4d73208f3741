"""`vigil demo`: the main job from nothing, with progress and a summary."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from feature_repo import settings as configuration

if TYPE_CHECKING:
    from pipelines.demo import Summary


def demo(
    exit_after: Annotated[bool, typer.Option("--exit", help="Stop the stack at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    rate: Annotated[float, typer.Option(help="Live messages per second.")] = 1_000.0,
    seconds: Annotated[int, typer.Option(help="Seconds of live traffic.")] = 60,
) -> None:
    """Stack, history, features, training, promotion, live stream, queries: everything once, from nothing."""
    from infra.local.stack import Stack
    from pipelines.demo import Demo, Scale

    console = Console(stderr=True)
    with console.status("starting") as status:
        current = [""]

        def say(step: str, what: str) -> None:
            if step:
                if current[0]:
                    console.print(f"[green]✓[/] {current[0]}")
                current[0] = step
            status.update(f"{current[0]}  [dim]{what}[/]")

        stack = Stack(configuration.load())
        try:
            summary = Demo(stack, Scale(rate=rate, seconds=seconds), say).run()
            console.print(f"[green]✓[/] {current[0]}")
        finally:
            if exit_after:
                status.update("stopping the stack")
                stack.down()
    if as_json:
        typer.echo(json.dumps(summary.as_json()))
    else:
        _print(summary)
    if not summary.complete:
        raise typer.Exit(1)


def _print(summary: "Summary") -> None:
    table = Table(title="live payments", show_header=False)
    rows = {
        "messages in": f"{summary.payments_in:,}",
        "decided": f"{summary.decided:,}",
        "flagged": f"{summary.flagged:,}",
        "unscored": f"{summary.unscored:,}",
        "duplicates": f"{summary.duplicates:,}",
        "labels in": f"{summary.labels_in:,}",
        "dead letters": ", ".join(f"{count} {code}" for code, count in sorted(summary.dead_letters.items())) or "none",
        "in Elasticsearch": f"{summary.in_elasticsearch:,}",
        "model version": summary.model_version,
        "promoted past the gate": summary.promoted,
        "latency": f"p50 {summary.latency_p50_s:.2f} s, p99 {summary.latency_p99_s:.2f} s",
        "throughput": f"{summary.throughput_per_s:,.0f} per second",
        "whole demo": f"{summary.seconds:.0f} s",
        **summary.urls,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)
    if not summary.complete:
        typer.echo("not everything came to rest: vigil status says what is degraded", err=True)


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)
