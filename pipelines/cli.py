"""The command line: `vigil`. One module of `pipelines/commands` per area; this file only joins them."""

import sys

import typer
from rich.console import Console

from feature_repo.errors import VigilError
from pipelines.commands import AREAS

app = typer.Typer(
    name="vigil",
    help="Score every payment as it happens, say why, and remember which model said it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for area in AREAS:
    area.register(app)


def main() -> None:
    """Entry point: an error of ours becomes one clear line and its exit code, never a traceback."""
    try:
        app()
    except VigilError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]{error.code}[/] {error.message}")
        if error.remedy:
            console.print(f"  try: {error.remedy}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
