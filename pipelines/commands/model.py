"""Commands about models: train, promote, roll back, list, score."""

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration

if TYPE_CHECKING:
    from pipelines.promote import Promotion
    from pipelines.requests import Request

DataOption = Annotated[str, typer.Option("--data", help="data set: a folder under $VIGIL_HOME/data")]
FromOption = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="first day, UTC")]
ToOption = Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="last day, inclusive, UTC")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def train(
    data: DataOption,
    first: FromOption,
    last: ToOption,
    labels_as_of: Annotated[
        str | None,
        typer.Option(
            "--labels-as-of",
            help="use only labels that had arrived by this time (ISO 8601, UTC without an offset); "
            "default: the end of the last day plus the data set's median label delay",
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="default, fast, boosted, isolation_forest, mahalanobis or rule")
    ] = "default",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one value of the recipe; repeatable")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on a window of days, judge it on held-out days and register a version."""
    from pipelines.labels import fetch
    from pipelines.quality import require_valid
    from serving.source import CHAMPION, MlflowSource
    from training import recipes

    cut = _time(labels_as_of) if labels_as_of else None
    chosen = recipes.named(recipe, overrides or ())  # a slip of the pen should not cost a validation
    settings = configuration.load()
    MlflowSource(settings.mlflow_url, settings.model_name).named(
        CHAMPION
    )  # where no registry answers, nobody should find out after the training
    with Console(stderr=True).status("validating") as status:
        require_valid(settings, data)
        status.update("asking for labels")
        fetch(settings, data)
        status.update("starting")
        from training.registration import register
        from training.train import fit

        fitted = fit(settings, data, first.date(), last.date(), cut, chosen, status.update)
        status.update("registering")
        version = register(settings, fitted)
    if as_json:
        typer.echo(json.dumps({"version": version, "report": fitted.report}))
        return
    typer.echo(f"version {version} of {settings.model_name}, recipe {chosen.name}")
    for line in summary(fitted.report, fitted.manifest.threshold):
        typer.echo(f"  {line}")


def promote(
    version: Annotated[str, typer.Argument(help="a version, latest or an alias")],
    override: Annotated[
        str | None,
        typer.Option("--override", help="reason to go past failing checks that are not of integrity; audited"),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="data set the gate judges on; default: what it was trained on")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion, if the gate lets it; exits 6 naming the failing checks.

    The lifecycle worker judges where one runs, else this command does.
    """
    from pipelines.promote import promote as run

    if override is not None and not override.strip():
        raise BadConfiguration("--override needs a reason: it is what the audit log keeps")
    with Console(stderr=True).status("judging"):
        done = run(configuration.load(), version, getpass.getuser(), override=override, data=data)
    _tell(done, as_json)


def rollback(as_json: JsonOption = False) -> None:
    """Make the previous champion serve again. No gate, integrity only."""
    from pipelines.promote import rollback as run

    _tell(run(configuration.load(), getpass.getuser()), as_json)


def set_threshold(
    budget: Annotated[float, typer.Argument(help="share of all payments that may be alerts, such as 0.002")],
    model: Annotated[str, typer.Option("--model", help="a version, latest or an alias")] = "champion",
    as_json: JsonOption = False,
) -> None:
    """Change the alert budget without training: the same weights as a new version with another threshold."""
    from pipelines.promote import ask
    from pipelines.requests import THRESHOLD, Asked

    if not 0 < budget < 1:
        raise BadConfiguration(f"the budget is a share of payments between 0 and 1, not {budget:g}")
    asked = Asked(THRESHOLD, getpass.getuser(), version=model, alert_budget=budget)
    _tell(ask(configuration.load(), asked), as_json)


def models(as_json: JsonOption = False) -> None:
    """List the registered versions: aliases, recipe, held-out metrics, what the gate said; --json has more."""
    from pipelines import requests
    from pipelines.versions import SHOWN_METRICS, Versions

    settings = configuration.load()
    versions = Versions(settings).all()
    with requests.connected(settings) as connection:
        asked = requests.latest_by_version(connection, settings.model_name)
    gates = {version: _gate(request) for version, request in asked.items()}
    if as_json:
        typer.echo(json.dumps([version.as_json() | {"gate": gates.get(version.version)} for version in versions]))
        return
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("version", "aliases", "recipe", "created, UTC", *SHOWN_METRICS):
        table.add_column(heading, no_wrap=True)
    table.add_column("gate", overflow="fold")
    for version in versions:
        created = datetime.fromtimestamp(version.created_at_ms / 1_000, UTC)
        metrics = [version.metrics.get(name) for name in SHOWN_METRICS.values()]
        gate = gates.get(version.version)
        table.add_row(
            version.version,
            ", ".join(version.aliases),
            version.recipe,
            f"{created:%m-%d %H:%M}",
            *("-" if value is None else f"{value:.3f}" for value in metrics),
            "-" if gate is None else " ".join([gate["outcome"], *gate["failed"]]),
        )
    Console().print(table)


def _gate(request: "Request") -> dict[str, Any]:
    """What the newest request said of a version: its outcome and the checks that failed, overridden or not."""
    report = request.report or {}
    failed = [check["name"] for check in report.get("checks", []) if check["passed"] is False]
    return {"request": request.id, "outcome": request.outcome, "failed": failed, "override": request.override}


def score(
    data: DataOption,
    first: FromOption,
    last: ToOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    model: Annotated[str, typer.Option("--model", help="a version, latest or an alias")] = "champion",
    as_json: JsonOption = False,
) -> None:
    """Score a window of a data set offline: one row per transaction, with reasons."""
    from pipelines.scoring import score_window

    with Console(stderr=True).status("scoring"):
        done = score_window(configuration.load(), data, model, first.date(), last.date(), out)
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(
        f"{done['transactions']:,} transactions to {done['out']} by version {done['model_version']}: "
        f"{done['scored']:,} scored, {done['anomalies']:,} anomalies, {done['unscored']:,} not to be scored"
    )


def summary(report: dict[str, Any], threshold: float) -> list[str]:
    """The report in a few lines."""
    rows, held = report["rows"], report["held_out"]
    lines = [
        f"{rows['trained_on']:,} payments without a known fraud, {rows['known_fraud']:,} frauds set aside",
        f"{rows['too_young']:,} payments too young to have a label",
        f"threshold {threshold:.4f} from {rows['held_out']:,} held-out payments",
    ]
    if "average_precision" not in held:
        return [*lines, "no fraud is known in the held-out days: nothing to judge by"]
    for name, values in {"this model": held, **report["baselines"]}.items():
        lines.append(
            f"{name.replace('_', ' ')}: average precision {values['average_precision']:.3f}, "
            f"AUC {values['auc']:.3f}, card precision at 100 {values['card_precision_100']:.3f}"
        )
    return lines


def _tell(promotion: "Promotion", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(promotion.as_json()))
    elif promotion.changed:
        typer.echo(f"version {promotion.version} is champion, before it was {promotion.previous or 'none'}")
    else:
        typer.echo(f"version {promotion.version} is champion already")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadConfiguration(f"--labels-as-of {text!r} is not a time in ISO 8601") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def register(app: typer.Typer) -> None:
    for command in (train, score, promote, rollback, models):
        app.command()(command)
    threshold = typer.Typer(help="The alert budget of a version.", no_args_is_help=True)
    threshold.callback()(lambda: None)  # or typer would take the one command for the group itself
    threshold.command("set")(set_threshold)
    app.add_typer(threshold, name="threshold")
