"""The lifecycle worker and labels: `vigil lifecycle`, `vigil labels import`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from feature_repo import settings as configuration
from pipelines.commands.stream import until_signal


def lifecycle() -> None:
    """Do what is asked of the models, take in labels, run daily jobs, until stopped."""
    from feature_repo.exposition import served
    from pipelines import lifecycle as worker
    from pipelines.metrics import LifecycleMetrics

    settings = configuration.load()
    with until_signal() as stop, served(settings.internal_bind, settings.lifecycle_metrics_port) as registry:
        worker.run(settings, stop, LifecycleMetrics(registry))


def import_labels(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: transaction_id, is_fraud, label_time, maybe source")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Bring labels from a file into table `labels`; known ones change nothing."""
    from pipelines.labels import import_file

    done = import_file(configuration.load(), file)
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    typer.echo(f"{done.rows:,} rows, {done.new:,} new labels")
    for code, count in done.refused.most_common():
        typer.echo(f"  {count:,} refused: {code}")


def register(app: typer.Typer) -> None:
    app.command()(lifecycle)
    labels = typer.Typer(help="Labels: what was learnt of payments later.", no_args_is_help=True)
    labels.callback()(lambda: None)  # or typer would take the one command for the group itself
    labels.command("import")(import_labels)
    app.add_typer(labels, name="labels")
