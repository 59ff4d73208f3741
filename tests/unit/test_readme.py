"""The README cannot lag: every setting, command and folder is named in it."""

from pathlib import Path

import typer.main

from feature_repo.settings import Settings
from pipelines.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_setting_is_documented_with_its_meaning() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description and field.description in README, name
        assert f"VIGIL_{name.upper()}" in README or name.upper() in README, name


def test_every_command_is_named() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a typer app is a group
    missing = [name for name in commands if f"`{name}`" not in README]
    assert not missing


def test_every_folder_is_described() -> None:
    for folder in (
        "training",
        "feature_repo",
        "serving",
        "streaming",
        "api",
        "pipelines",
        "notebooks",
        "infra",
        "tests",
    ):
        assert f"| `{folder}/` |" in README
