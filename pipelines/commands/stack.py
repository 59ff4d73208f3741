"""The local stack: up, down, status, logs, restart, doctor."""

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from feature_repo import settings as configuration

if TYPE_CHECKING:
    from infra.local.stack import Stack
    from infra.local.status import ServiceStatus

EVERY_S = 2.0  # between two looks of `vigil status --follow`

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Name = Annotated[str, typer.Argument(help="A service, as `vigil status` names it.")]


def up(
    only: Annotated[
        str | None, typer.Option(help="Services to start, with commas between; what they need comes along.")
    ] = None,
) -> None:
    """Start the local stack, or what is named of it; a running stack gets what it lacks."""
    from infra.local.stack import Stack

    names = [name.strip() for name in only.split(",") if name.strip()] if only is not None else None
    stack = Stack(configuration.load())
    with Console(stderr=True).status("starting") as spinner:
        stack.up(names, lambda *news: _show(spinner.console, spinner.update, *news))
    found = stack.status()
    Console().print(_table(found))
    if any(s.name == "api" and s.state == "up" for s in found):
        typer.echo(f"console: {stack.settings.api_url}/console")
    if stack.settings.keys_wanted:
        typer.echo("the query service and its console ask for keys: vigil keys create NAME --scope admin")


def down() -> None:
    """Stop everything `vigil up` started, also what a killed supervisor left behind."""
    from infra.local.stack import Stack

    with Console(stderr=True).status("stopping") as spinner:
        ran = Stack(configuration.load()).down(lambda *news: _show(spinner.console, spinner.update, *news))
    typer.echo(f"stopped {', '.join(ran)}" if ran else "nothing was running")


def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove everything this home holds: payments, decisions, models, data sets, logs. Refused while it runs."""
    from infra.local.stack import Stack

    settings = configuration.load()
    stack = Stack(settings)
    stack.require_erasable()
    if not yes:
        typer.confirm(f"remove {settings.home} with all its data?", abort=True)
    stack.erase()
    typer.echo(f"removed {settings.home}")


def status(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Look again every two seconds, until stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each service: its state, process and address; then what is degraded, and what to do about it."""
    from rich.live import Live

    from infra.local.stack import Stack

    stack = Stack(configuration.load())
    if as_json:
        while True:
            typer.echo(json.dumps(_as_json(*_look(stack)), indent=None if follow else 2))
            if not follow:
                return
            time.sleep(EVERY_S)
    console = Console(highlight=False)
    if not follow:
        console.print(_said(*_look(stack)), soft_wrap=True)
        return
    with Live(_said(*_look(stack)), console=console, auto_refresh=False, screen=console.is_terminal) as shown:
        while True:
            time.sleep(EVERY_S)
            shown.update(_said(*_look(stack)), refresh=True)


def _look(stack: "Stack") -> tuple[list["ServiceStatus"], list[dict[str, Any]]]:
    """Every service, and what is degraded."""
    from pipelines import degraded

    found = stack.status()
    conditions = degraded.of_services(found)
    if any(s.name == "postgres" and s.state == "up" for s in found):
        conditions += degraded.of_jobs(stack.settings)
    return found, conditions


def _as_json(found: list["ServiceStatus"], conditions: list[dict[str, Any]]) -> dict[str, Any]:
    from feature_repo.transaction import rfc3339

    rows = [
        {"name": s.name, "state": s.state, "pid": s.pid, "url": s.url, "metrics": s.metrics, "detail": s.detail}
        for s in found
    ]
    components = list(dict.fromkeys(one["component"] for one in conditions))
    said = [{**one, "since": one["since"] and rfc3339(one["since"])} for one in conditions]
    return {"services": rows, "degraded": components, "conditions": said}


def _said(found: list["ServiceStatus"], conditions: list[dict[str, Any]]) -> Group:
    lines: list[str] = []
    for one in conditions:
        since = f" since {one['since'].astimezone():%H:%M:%S}" if one["since"] else ""
        lines += [f"[bold red]{one['code']}[/] {one['component']}{since}"]
        lines += [escape(f"  {one['cause']}\n  try: {one['remedy']}")]
    return Group(_table(found), *lines)


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end.")] = 100,
) -> None:
    """Print the end of a service's log (`supervisor` has one too)."""
    from infra.local import logs as log_files
    from infra.local.stack import Stack

    log = Stack(configuration.load()).log(name)
    for line in log_files.follow(log, lines) if follow else log_files.tail(log, lines):
        typer.echo(line)


def restart(name: Name) -> None:
    """Stop one service and start it again; the others stay up."""
    from infra.local.stack import Stack

    stack = Stack(configuration.load())
    with Console(stderr=True).status("restarting") as spinner:
        stack.restart(name, progress=lambda *news: _show(spinner.console, spinner.update, *news))
    typer.echo(f"{name} is up")


def doctor(as_json: AsJson = False) -> None:
    """Check what this machine must have, and say what to do about what it lacks. Exit code 4 if something is."""
    from infra.local import doctor as checks

    findings = checks.examine(configuration.load())
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            mark = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[bold red]bad [/]"}[finding.verdict]
            console.print(f"{mark} {finding.what}: {finding.found}")
            if finding.remedy:
                console.print(f"     try: {finding.remedy}")
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(4)


def _show(console: Console, update: Callable[[str], None], name: str, state: str, detail: str) -> None:
    """What lasts is printed, what passes is shown beside the spinner."""
    if state in ("up", "failed", "taken", "waiting") or (state == "down" and name != "provision"):
        console.print(f"{name:<14} {state:<9} {detail}", highlight=False, soft_wrap=True)
    else:
        update(f"{name} {state} {detail}")


def _table(found: list["ServiceStatus"]) -> Table:
    colours = {"up": "green", "down": "dim", "starting": "yellow", "stopping": "yellow"}
    table = Table("service", "state", "pid", "address", "detail", box=None, pad_edge=False)
    for s in found:
        address = re.sub(r":[^:/@]+@", ":***@", s.url)  # a password belongs in --json and stack.env only
        colour = colours.get(s.state, "bold red")
        table.add_row(s.name, f"[{colour}]{s.state}[/]", str(s.pid or ""), address, escape(s.detail))
    return table


def register(app: typer.Typer) -> None:
    for command in (up, down, reset, status, logs, restart, doctor):
        app.command(command.__name__)(command)
