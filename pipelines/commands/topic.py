"""The payments topic: `vigil topic grow`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from feature_repo import settings as configuration

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def grow(
    partitions: Annotated[int, typer.Option("--partitions", min=1, max=10_000, help="Partitions to have in the end.")],
    as_json: AsJson = False,
) -> None:
    """Add partitions and move each user's state to its new one. Stops this home's stream for it and starts it again.

    Cut short, the same command finishes it. Without a local stack stop the stream first, set VIGIL_PARTITIONS after.
    """
    from infra.local.services import OURS
    from infra.local.stack import Stack
    from pipelines.growth import Grown, check
    from pipelines.growth import grow as run

    settings = configuration.load()
    if check(settings, partitions) == partitions == settings.partitions:
        typer.echo(json.dumps(Grown(settings.topic, partitions, partitions).as_json()) if as_json else "nothing to do")
        return
    stack = Stack(settings)
    running = [service.name for service in stack.status() if service.name in OURS and service.pid]
    with Console(stderr=True).status("stopping the stream") as status:
        if "stream" in running:
            stack.stop("stream")
        done = run(settings, partitions, lambda records: status.update(f"moving states: {records:,} records"))
        follows = stack.note_partitions(partitions)
        if follows and running:
            status.update(f"starting {', '.join(running)} with {partitions} partitions")
            first = [name for name in running if name == "serving"]  # before the stream, which would not wait for it
            for names in (first, [name for name in running if name not in first]):
                stack.restart(*names)
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    elif done.before == partitions:
        typer.echo(f"{done.topic} has {partitions} partitions")
    else:
        typer.echo(f"{done.topic} has {partitions} partitions, {done.before} before")
        typer.echo(f"  {done.moved:,} of {done.records:,} states moved; {done.waiting:,} records waited to be decided")
        if done.snapshot:
            typer.echo(f"  snapshot {done.snapshot} of the states")
    if not follows:
        typer.echo(f"set VIGIL_PARTITIONS={partitions} for every process of yours and start it anew", err=True)


def register(app: typer.Typer) -> None:
    topic = typer.Typer(help="The payments topic: more partitions.", no_args_is_help=True)
    topic.callback()(lambda: None)  # a group of one command stays a group
    topic.command()(grow)
    app.add_typer(topic, name="topic")
