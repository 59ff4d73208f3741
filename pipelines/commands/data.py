"""Commands about data: simulate a history, import one, validate it, stream payments into Kafka."""

import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration, DataInvalid

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.history import Imported
    from pipelines.produce import Produced

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]


@contextmanager
def _bar(description: str, total: float | None) -> Iterator["Progress"]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(description, total=total)
        yield bar


def _pairs(values: list[str] | None, flag: str) -> dict[str, str]:
    """FIELD=VALUE options as a mapping."""
    pairs: dict[str, str] = {}
    for text in values or []:
        name, found, value = text.partition("=")
        if not found or not name or not value:
            raise BadConfiguration(f"{flag} takes FIELD=VALUE, not {text!r}")
        pairs[name] = value
    return pairs


def simulate(
    out: Annotated[Path | None, typer.Option("--out", help="folder for history.parquet and truth.parquet")] = None,
    name: Annotated[str | None, typer.Option("--name", help="import it as this data set as well")] = None,
    users: Annotated[int, typer.Option("--users", min=1, help="people who pay")] = 5_000,
    days: Annotated[int, typer.Option("--days", min=1, help="length of the history")] = 60,
    seed: Annotated[int, typer.Option("--seed", min=0, help="the same seed gives the same bytes")] = 1,
    start: Annotated[datetime | None, typer.Option("--start", formats=["%Y-%m-%d"], help="first day, UTC")] = None,
    prevalence: Annotated[float, typer.Option("--prevalence", help="fraud per genuine payment")] = 0.006,
    difficulty: Annotated[float, typer.Option("--difficulty", help="0 obvious, 1 hardly to be told")] = 0.5,
    regime_day: Annotated[int | None, typer.Option("--regime-day", help="day on which habits change")] = None,
    new_mechanism_day: Annotated[
        int | None, typer.Option("--new-mechanism-day", help="day from which thieves know one way more")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a labelled history of simulated people and thieves, the truth about every fraud, and a page of plots."""
    from pipelines.history import data_folder, import_history
    from pipelines.simulator import folder, page, world

    if out is None and name is None:
        raise BadConfiguration("say where the history goes: --out DIR, --name NAME, or both")
    options = world.Options(
        users=users,
        seed=seed,
        start=start.date() if start else world.DEFAULT_START,
        prevalence=prevalence,
        difficulty=difficulty,
        regime_day=regime_day,
        new_mechanism_day=new_mechanism_day,
    )
    target = out or Path(tempfile.mkdtemp(prefix="vigil-simulate-"))
    try:
        with _bar("simulating days", days) as bar:
            made = folder.write(
                world.build(options), days, target, lambda day: bar.update(bar.task_ids[0], completed=day)
            )
        settings = configuration.load()
        imported = import_history(settings, target / folder.HISTORY, name) if name else None
        shown = page.write(target, out or data_folder(settings, name or ""))
    finally:
        if out is None:
            shutil.rmtree(target)
    if as_json:
        where = {} if imported is None else {"import": imported.as_json()}
        typer.echo(json.dumps(made.as_json() | {"folder": str(out) if out else None} | where))
        return
    typer.echo(f"{made.payments:,} payments, {made.frauds:,} of them fraud, seed {made.seed}")
    typer.echo(f"folder {out}" if out else f"data set {name}")
    typer.echo(f"page {shown}")


def import_(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV file with a header, .csv.gz as well")],
    name: Annotated[str, typer.Option("--name", help="data set to make, or to replace")],
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="where a field is called otherwise")
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--constant", metavar="FIELD=VALUE", help="one value of a field for all rows")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="file of labels: transaction_id, label_time, maybe is_fraud")
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="of times that name none")] = "UTC",
    time_format: Annotated[
        str | None, typer.Option("--time-format", help="of times: '%d/%m/%Y %H:%M', epoch or epoch-ms; else ISO 8601")
    ] = None,
    label_delay_days: Annotated[
        float, typer.Option("--label-delay-days", min=0, help="for frauds without a label_time")
    ] = 7.0,
    delimiter: Annotated[str, typer.Option("--delimiter", help="of a CSV")] = ",",
    encoding: Annotated[str, typer.Option("--encoding", help="of a CSV")] = "utf8",
    as_json: JsonOption = False,
) -> None:
    """Import a history of your own: the seven fields, and is_fraud, label_time, arrival_time where known.

    Rows the stream would refuse are dropped and counted by the same codes.
    """
    from pipelines.history import import_history

    with _bar(f"importing {file.name}", None) as bar:

        def progress(what: str, done: int, total: int | None) -> None:
            bar.update(bar.task_ids[0], description=f"{file.name}: {what}", completed=done, total=total)

        done = import_history(
            configuration.load(),
            file,
            name,
            columns=_pairs(columns, "--map"),
            constants=_pairs(constants, "--constant"),
            labels=labels,
            timezone=timezone,
            time_format=time_format,
            label_delay_days=label_delay_days,
            delimiter=delimiter.replace("\\t", "\t"),
            encoding=encoding,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    _print_import(done)


def _print_import(done: "Imported") -> None:
    typer.echo(f"{done.name}: {done.rows_kept:,} of {done.rows_read:,} rows kept, {done.users:,} users")
    typer.echo(f"events from {done.first_event} to {done.last_event}")
    if done.labelled:
        typer.echo(f"{done.frauds_reported:,} reported frauds, median delay {done.median_label_delay_days} days")
    if done.labels:
        typer.echo(
            f"{done.labels['met']:,} of {done.labels['labels']:,} labels met a payment"
            + "".join(f", {count:,} left out: {code}" for code, count in done.labels["refused"].items())
        )
    for field, made_of in done.filled.items():
        typer.echo(f"{field} is not in the file: {made_of}")
    if done.dropped:
        table = Table(title="dropped rows")
        for heading in ("code", "rows", "first at", "why"):
            table.add_column(heading)
        for code, count in done.dropped.most_common():
            example = next(example for example in done.examples if example["code"] == code)
            table.add_row(code, f"{count:,}", f"row {example['row']}", example["detail"])
        Console().print(table)


def validate(
    data: Annotated[str, typer.Option("--data", help="data set: a folder under $VIGIL_HOME/data")],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="compare distributions with this data set; default: with what was imported under this name before",
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare/--no-compare", help="compare distributions at all")] = True,
    as_json: JsonOption = False,
) -> None:
    """Check a data set against the contract before training; exits 3 where it is not fit."""
    from pipelines.quality import validate as run

    report = run(configuration.load(), data, against=against, compare=compare)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        typer.echo(f"{len(report.findings)} checks of {report.rows:,} payments, {len(report.failures)} failed")
        if report.against:
            typer.echo(f"compared with {report.against}")
        typer.echo(f"page {report.path}")
    if not report.passed:
        raise DataInvalid(data, report.failures)


def produce(
    data: Annotated[str | None, typer.Option("--data", help="stream this data set, as it stands")] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="stream what the people of this simulated data set do next")
    ] = None,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="with --data: move all times so that the newest is now, new ids")
    ] = False,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="with --data: first event day, UTC")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="with --data: last event day, UTC")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="messages per second; unset, as fast as it goes")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="payments to send; unset, all there are")] = None,
    defects: Annotated[
        str | None, typer.Option("--defects", help="'standard', or rates like malformed=0.001,late=0.01")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="of simulated people: also send what is reported as fraud, when it is")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stream payments into Kafka: a data set, or people simulated up to this moment.

    Without --data or --after new people begin thirty days ago and are streamed until they reach now.
    """
    from pipelines.clock import SystemClock
    from pipelines.defects import Defects
    from pipelines.produce import produce as run
    from pipelines.sources import reports

    if labels and data is not None:
        raise BadConfiguration("--labels goes with simulated people", remedy="vigil labels import FILE")
    settings = configuration.load()
    payments = _source(settings, data, after, shift_to_now, first, last, count)
    reported = reports(settings, after, SystemClock()) if labels else ()
    chosen = Defects.of(defects) if defects else None
    with _stoppable() as (stop, caught), _bar("messages sent", count) as bar:
        done = run(
            settings,
            payments,
            rate=rate,
            count=count,
            defects=chosen,
            labels=reported,
            stop=stop,
            progress=lambda sent: bar.update(bar.task_ids[0], completed=sent),
        )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    else:
        _print_produced(done)
    if caught:
        raise typer.Exit(128 + caught[0])


def _source(
    settings: configuration.Settings,
    data: str | None,
    after: str | None,
    shift_to_now: bool,
    first: datetime | None,
    last: datetime | None,
    count: int | None,
) -> "Iterator[pa.RecordBatch]":
    from pipelines import sources
    from pipelines.clock import SystemClock

    if data is None:
        if shift_to_now or first or last:
            raise BadConfiguration("--shift-to-now, --from and --to need --data NAME")
        return sources.from_people(settings, after, SystemClock())
    if after is not None:
        raise BadConfiguration("--data and --after name two sources; give one")
    return sources.from_history(
        settings,
        data,
        SystemClock(),
        shift_to_now=shift_to_now,
        count=count,
        first=first.date() if first else None,
        last=last.date() if last else None,
    )


@contextmanager
def _stoppable() -> Iterator[tuple[threading.Event, list[int]]]:
    """Ctrl-C and SIGTERM end the stream after the batch in hand; the list then holds the signal."""
    stop, caught = threading.Event(), list[int]()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_produced(done: "Produced") -> None:
    typer.echo(f"{done.delivered:,} messages delivered in {done.seconds:.1f} s ({done.per_second:,.0f}/s)")
    malformed = sum(done.malformed.values())
    typer.echo(
        f"{done.payments:,} payments ({done.late:,} late, {done.unkeyed:,} without key), "
        f"{malformed:,} malformed, {done.duplicates:,} repeats"
    )
    if done.labels:
        typer.echo(f"{done.labels:,} labels to topic labels")
    if done.first_event:
        typer.echo(f"events from {done.first_event} to {done.last_event}")
    typer.echo("per partition " + ", ".join(f"{number}: {count:,}" for number, count in done.by_partition.items()))


def register(app: typer.Typer) -> None:
    app.command("simulate")(simulate)
    app.command("import")(import_)
    app.command("validate")(validate)
    app.command("produce")(produce)
