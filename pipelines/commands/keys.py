"""Keys of the query service: `vigil keys create`, `list`, `revoke`."""

import getpass
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from api.scopes import Scope
from feature_repo import settings as configuration
from feature_repo.errors import BadConfiguration
from pipelines.commands.features import show
from pipelines.commands.model import JsonOption

if TYPE_CHECKING:
    from api.keys.service import KeyService


def create(
    name: Annotated[str, typer.Argument(help="who or what will use it")],
    scopes: Annotated[list[Scope], typer.Option("--scope", help="what it may do; repeatable. admin may do all")],
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=36_500, help="good for so long; default: for ever")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once and kept nowhere."""
    from pydantic import ValidationError

    from api.keys.schemas import KeyBody

    try:
        until = None if days is None else datetime.now(UTC) + timedelta(days=days)
        body = KeyBody.model_validate({"name": name, "scopes": scopes, "expires_at": until and until.isoformat()})
    except ValidationError as error:
        raise BadConfiguration(f"NAME cannot be used: {error.errors()[0]['msg']}") from None
    with service() as keys:
        made = keys.create(body, getpass.getuser())
    if as_json:
        typer.echo(made.model_dump_json())
        return
    typer.echo(made.key)
    typer.echo(f"key {made.id} of {made.name} may {', '.join(made.scopes)}; it is not shown again", err=True)


def list_keys(as_json: JsonOption = False) -> None:
    """List every key, newest first, without its secret."""
    with service() as keys:
        found = keys.list()
    if as_json:
        typer.echo(found.model_dump_json())
        return
    table = Table("id", "name", "scopes", "made", "by", "last used", "state", box=SIMPLE)
    now = datetime.now(UTC)
    for key in found.items:
        used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
        if key.revoked_at:
            state = f"revoked by {key.revoked_by}"
        elif key.expires_at:
            state = f"{'expired' if key.expires_at <= now else 'good until'} {key.expires_at:%Y-%m-%d}"
        else:
            state = "good"
        made = f"{key.created_at:%Y-%m-%d %H:%M}"
        table.add_row(key.id, key.name, ", ".join(key.scopes), made, key.created_by, used, state)
    show(table)


def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="as `vigil keys list` shows it")],
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: every worker refuses it within a minute."""
    with service() as keys:
        done = keys.revoke(identity, getpass.getuser())
    typer.echo(done.model_dump_json() if as_json else f"key {done.id} of {done.name} is revoked")


@contextmanager
def service() -> Iterator["KeyService"]:
    from api.keys.repository import KeyRepository
    from api.keys.service import KeyService
    from api.postgres import Database

    with closing(Database(configuration.load().postgres_dsn, writes=True)) as writing:
        yield KeyService(KeyRepository(writing), lambda: datetime.now(UTC))


def register(app: typer.Typer) -> None:
    keys = typer.Typer(help="Keys of the query service.", no_args_is_help=True)
    keys.command("create")(create)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")
