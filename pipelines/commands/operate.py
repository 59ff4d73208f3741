"""For whoever runs the road: dead letters, reconciliation, retention, and scoring what had to go without."""

import getpass
import json
import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration
from pipelines.commands.features import show
from pipelines.commands.model import JsonOption
from pipelines.commands.stream import until_signal

if TYPE_CHECKING:
    from pipelines.dead_letters import Asked
    from pipelines.reconcile.findings import Reconciled

CodeOption = Annotated[str | None, typer.Option("--code", help="only of this code, such as NOT_JSON")]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="only what arrived since then (ISO 8601, UTC without an offset)")
]
PartitionOption = Annotated[int | None, typer.Option("--partition", min=0, help="only of this partition")]
DayOption = datetime | None
FromOption = Annotated[DayOption, typer.Option("--from", formats=["%Y-%m-%d"], help="first day, UTC; default: all")]
ToOption = Annotated[DayOption, typer.Option("--to", formats=["%Y-%m-%d"], help="last day, inclusive, UTC")]


# ---- dead letters -----------------------------------------------------------------------------------------


def list_dead_letters(
    code: CodeOption = None,
    since: SinceOption = None,
    partition: PartitionOption = None,
    after: Annotated[str | None, typer.Option("--after", help="go on behind these coordinates")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first, with counts by code."""
    from feature_repo.transaction import rfc3339
    from pipelines.dead_letters import listed

    found = listed(configuration.load(), _asked(code, since, partition, limit, after))
    if as_json:
        items = [letter.as_json() for letter in found.items]
        typer.echo(json.dumps({"counts": found.counts, "items": items, "after": found.after}))
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in found.counts.items())
    typer.echo(f"{sum(found.counts.values()):,} dead letters" + (f": {counts}" if counts else ""))
    if not found.items:
        return
    table = Table("coordinates", "arrived", "code", "bytes", "detail", box=SIMPLE)
    for letter in found.items:
        place, arrived = letter.coordinates, rfc3339(letter.ingested_at)
        table.add_row(place, arrived, letter.code, f"{letter.payload_bytes:,}", letter.detail)
    show(table)
    if found.after is not None:
        typer.echo(f"more follow: --after {found.after}")


def show_dead_letter(
    coordinates: Annotated[str, typer.Argument(help="TOPIC-PARTITION-OFFSET or PARTITION-OFFSET")],
    as_json: JsonOption = False,
) -> None:
    """Show what is kept of a record that was not accepted, and its headers where Kafka still has it.

    Card numbers are masked in both.
    """
    from pipelines.dead_letters import find, headers

    settings = configuration.load()
    letter = find(settings, coordinates)
    names = headers(settings, letter)
    payload = letter.payload.decode("utf-8", "backslashreplace")
    if as_json:
        values = [{"name": name, "value": value} for name, value in names] if names is not None else None
        typer.echo(json.dumps({**letter.as_json(), "payload": payload, "headers": values}))
        return
    for name, value in letter.as_json().items():
        typer.echo(f"{name:<14} {value}")
    if names is None:
        typer.echo("headers        no longer in Kafka")
    for name, value in names or []:
        typer.echo(f"header         {_printable(name)}: {_printable(value)}")
    typer.echo(f"payload        {_printable(payload)}")


def replay_dead_letters(
    coordinates: Annotated[
        list[str] | None, typer.Argument(help="TOPIC-PARTITION-OFFSET or PARTITION-OFFSET, any number")
    ] = None,
    code: CodeOption = None,
    since: SinceOption = None,
    partition: PartitionOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="newest ones at most")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Produce dead letters again: those that are named, or all that fit --code.

    Each goes to its user's partition, with the coordinates it first had in a header. Refused, with the reason, is what
    is not kept whole and what the contract still does not take; exits 2 then. Twice is harmless: the second is
    marked a duplicate.
    """
    from pipelines.dead_letters import find, listed, replay

    if bool(coordinates) == (code is not None) or (coordinates and (since or partition is not None)):
        raise BadConfiguration("name coordinates, or give --code with --since, --partition and --limit")
    settings = configuration.load()
    if coordinates:
        letters = [find(settings, one) for one in dict.fromkeys(coordinates)]
    else:
        letters = listed(settings, _asked(code, since, partition, limit)).items
    done, refused = replay(settings, letters, getpass.getuser())
    if as_json:
        said = {
            "replayed": [vars(one) for one in done],
            "refused": [{"code": error.code, "detail": error.message} for error in refused],
        }
        typer.echo(json.dumps(said))
    else:
        for one in done:
            typer.echo(f"{one.origin} ({one.code}) lies at {one.produced} now")
        for error in refused:
            typer.echo(f"refused: {error.code} {error.message}")
        typer.echo(f"{len(done):,} produced again, {len(refused):,} refused")
    if refused:
        raise typer.Exit(refused[0].exit_code)


def _asked(code: str | None, since: str | None, partition: int | None, limit: int, after: str | None = None) -> "Asked":
    from pipelines.dead_letters import Asked

    try:
        moment = datetime.fromisoformat(since) if since else None
    except ValueError as error:
        raise BadConfiguration(
            f"--since {since} is no time", remedy="such as 2026-11-27 or 2026-11-27T08:30Z"
        ) from error
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Asked(code, moment, partition, after, limit)


def _printable(text: str) -> str:
    """Without what would move the cursor or change the colours of a terminal: anybody may have written it."""
    return re.sub(r"[^\n\t -~\xa0-\U0010ffff]", lambda found: f"\\x{ord(found[0]):02x}", text)


# ---- reconciliation, retention, backfill --------------------------------------------------------------------


def reconcile(
    first: Annotated[
        DayOption,
        typer.Option("--from", formats=["%Y-%m-%d"], help="first day, UTC; default: yesterday"),
    ] = None,
    last: Annotated[
        DayOption, typer.Option("--to", formats=["%Y-%m-%d"], help="last day, inclusive, UTC; default: until now")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on with what comes, until stopped")] = False,
    every: Annotated[float, typer.Option("--every", min=1, help="seconds between two looks of --follow")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Compare Kafka, the ledger, decisions, dead letters and the search index; exits 10 where they disagree.

    Each finding has a code, the component to look at, the cause and a remedy.
    """
    from datetime import timedelta

    from pipelines.reconcile import run

    begins = first.date() if first else run.today() - timedelta(days=1)
    ends = last.date() if last else None
    if follow and ends is not None:
        raise BadConfiguration("--follow has no end: leave out --to")
    if ends is not None and ends < begins:
        raise BadConfiguration(f"--to {ends} is before --from {begins}")
    settings = configuration.load()
    if follow:
        with until_signal() as stop:
            run.follow(settings, every, stop, lambda done: _tell(done, as_json), begins)
        return
    with Console(stderr=True).status("comparing"):
        done = run.check(settings, begins, ends)
    _tell(done, as_json)
    run.require(done)


def _tell(done: "Reconciled", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    typer.echo(
        f"{done.offsets:,} offsets: {done.decisions:,} decisions, {done.dead_letters:,} dead letters, "
        f"{done.gaps:,} legal gaps; {done.records:,} still in Kafka; {done.documents:,} documents, "
        f"{sum(done.parked.values()):,} parked; {done.lag:,} wait to be decided ({done.seconds:.1f} s)"
    )
    for code, count in done.parked.items():
        typer.echo(f"  {count:,} parked: {code}")
    for finding in done.findings:
        typer.echo(f"{finding.code} ({finding.component}) {finding.count:,} {finding.cause}")
        typer.echo(f"  try: {finding.remedy}")
    if not done.findings:
        typer.echo("everything agrees")


def retention(
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="days to keep beside today; default: VIGIL_RETENTION_DAYS")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop decisions, dead letters, ledger ranges and search indices of older days; labels and the audit log stay.

    Nothing goes that is not published and indexed.
    """
    from pipelines.retention import run

    settings = configuration.load()
    keep = days or settings.retention_days
    if keep is None:
        raise BadConfiguration("how many days are to be kept?", remedy="--days N, or set VIGIL_RETENTION_DAYS")
    with Console(stderr=True).status("looking" if dry_run else "dropping"):
        done = run(settings, keep, getpass.getuser(), dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    if done.held:
        typer.echo(f"held back: {done.held}")
    for one in done.gone:
        size = "" if one.bytes is None else f" {one.bytes / 1e6:,.1f} MB"
        typer.echo(f"{one.what:<9} {one.name}" + ("" if one.rows is None else f" {one.rows:,} rows") + size)
    verb = "would go" if dry_run else "gone"
    typer.echo(f"{done.bytes / 1e6:,.1f} MB {verb}; kept from {done.kept_from} on")


def backfill(
    first: FromOption = None,
    last: ToOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score with the champion what had to be decided without a model, as a later revision of those decisions.

    From the features that were logged. Payments in another currency have none and stay as they are.
    """
    from pipelines.backfill import run

    begins, ends = _day(first), _day(last)
    with Console(stderr=True).status("scoring") as status:
        done = run(
            configuration.load(), getpass.getuser(), begins, ends, lambda scored: status.update(f"{scored:,} scored")
        )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    by = ", ".join(f"{count:,} by version {version}" for version, count in done.versions.items())
    typer.echo(
        f"{done.scored:,} decisions scored later, {done.flagged:,} of them anomalies" + (f"; {by}" if by else "")
    )
    if done.without_features:
        typer.echo(f"  {done.without_features:,} stay unscored: a feature the champion consumes was not logged then")
    if done.republished:
        typer.echo(f"  {done.republished:,} ranges published that were left behind")


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def register(app: typer.Typer) -> None:
    dlq = typer.Typer(help="Dead letters: records that were not accepted.", no_args_is_help=True)
    dlq.command("list")(list_dead_letters)
    dlq.command("show")(show_dead_letter)
    dlq.command("replay")(replay_dead_letters)
    app.add_typer(dlq, name="dlq")
    for command in (reconcile, retention, backfill):
        app.command()(command)
