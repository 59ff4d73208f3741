"""What reads Kafka without end: `vigil stream`, `vigil windows` and `vigil index`; and `vigil reindex`."""

import getpass
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from types import FrameType
from typing import Annotated

import typer

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings

NICE = 10  # windows may be behind, decisions may not

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def stream(
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all that is in the topic now is decided.")
    ] = False,
    accept_dead_letters: Annotated[
        list[str], typer.Option(metavar="PARTITION:FIRST-LAST", help="Go on past this range of bad records.")
    ] = [],  # noqa: B006  # typer reads the default, nobody changes it
    accept_gone: Annotated[
        bool, typer.Option("--accept-gone", help="Go on past records that Kafka deleted before they were decided.")
    ] = False,
    master: Annotated[str, typer.Option(help="Spark master.")] = "local[*]",
) -> None:
    """Decide payments from Kafka until stopped: features, score, decision, PostgreSQL, decisions topic."""
    from infra.local.jars import spark_jars
    from streaming.run import run

    settings = configuration.load()
    accepted = frozenset(_offsets(text) for text in accept_dead_letters)
    _note_accepted(settings, accepted, accept_gone)
    with until_signal() as stop:
        run(
            settings,
            spark_jars(settings),
            stop,
            master=master,
            until_caught_up=until_caught_up,
            accepted=accepted,
            accept_gone=accept_gone,
        )


def _note_accepted(settings: Settings, accepted: frozenset[tuple[int, int, int]], accept_gone: bool) -> None:
    """Who lets the stream pass over what, in the audit log."""
    notes = [
        ("stream.accept_dead_letters", f"{settings.topic}-{partition} {first}-{last}")
        for partition, first, last in sorted(accepted)
    ]
    notes += [("stream.accept_gone", settings.topic)] if accept_gone else []
    if not notes:
        return
    from pipelines import requests

    with requests.connected(settings) as connection, connection, connection.cursor() as cursor:
        for action, subject in notes:
            requests.audit(cursor, getpass.getuser(), action, subject, None, {})


def _offsets(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d+):(\d+)-(\d+)", text)
    if not match:
        raise BadConfiguration(f"--accept-dead-letters {text}: expected PARTITION:FIRST-LAST, such as 0:100-160")
    partition, first, last = (int(group) for group in match.groups())
    return partition, first, last


def windows(
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all that is in the topic now is counted.")
    ] = False,
) -> None:
    """Count decided payments by minute, merchant and payment method, and bursts of users, until stopped."""
    from infra.local.jars import spark_jars
    from streaming.window_job import run

    settings = configuration.load()
    os.nice(NICE)
    with until_signal() as stop:
        run(settings, spark_jars(settings), stop, until_caught_up=until_caught_up)


def index(
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all that is in the topic now is indexed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Index decisions from Kafka into Elasticsearch until stopped."""
    from prometheus_client import CollectorRegistry

    from feature_repo.exposition import served
    from streaming import indexer
    from streaming.indexer_metrics import IndexerMetrics

    settings = configuration.load()
    # One that ends by itself is not there to be watched, and may run beside one that stays.
    shown = (
        nullcontext(CollectorRegistry())
        if until_caught_up
        else served(settings.internal_bind, settings.indexer_metrics_port)
    )
    with until_signal() as stop, shown as registry:
        counts = indexer.run(settings, stop, until_caught_up, metrics=IndexerMetrics(registry))
    _print(asdict(counts), as_json)


def reindex(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the search indices first: search is incomplete meanwhile.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild the search index from PostgreSQL; the indexer may go on meanwhile."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from infra.elasticsearch import provision
    from streaming import reindex as rebuilding

    settings = configuration.load()
    if fresh:
        provision.remove(settings)
    provision.apply(settings)
    columns = (SpinnerColumn(), TextColumn("{task.completed} documents"), TimeElapsedColumn())
    with until_signal() as stop, Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reindex", total=None)
        counts = rebuilding.run(settings, stop, lambda done: progress.update(task, completed=done))
    _print(asdict(counts), as_json)


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the command then ends by itself and exits with 130 or 143."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("elastic_transport", "py4j"):  # a line per request otherwise
        logging.getLogger(chatty).setLevel(logging.WARNING)
    stop = threading.Event()
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise typer.Exit(128 + received[0])


def _print(result: dict[str, int], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(", ".join(f"{count} {name}" for name, count in result.items()))


def register(app: typer.Typer) -> None:
    app.command("stream")(stream)
    app.command("windows")(windows)
    app.command("index")(index)
    app.command("reindex")(reindex)
