"""Notebooks hold no outputs and define nothing; the one that needs no server runs."""

import ast
import re
from pathlib import Path

import pytest

from feature_repo import settings as configuration
from pipelines.history import import_history
from pipelines.replay import replay
from pipelines.simulator import folder, world
from tests.cases import notebooks


def test_there_are_notebooks() -> None:
    assert len(notebooks.NAMES) == 4


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_no_output_is_committed(name: str) -> None:
    for cell in notebooks.read(name).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{name}: clear the outputs before committing"


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_a_notebook_defines_nothing_and_asserts_its_result(name: str) -> None:
    code = "\n".join(cell.source for cell in notebooks.read(name).cells if cell.cell_type == "code")
    kinds = {type(node) for node in ast.walk(ast.parse(code))}
    assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}
    assert ast.Assert in kinds


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_what_a_notebook_points_to_is_there(name: str) -> None:
    text = "\n".join(cell.source for cell in notebooks.read(name).cells if cell.cell_type == "markdown")
    assert all((notebooks.FOLDER / link).exists() for link in re.findall(r"\]\((?!http)([^)#]+)", text))
    assert all(f"{other}.ipynb" in notebooks.NAMES for other in re.findall(r"`(\d\d-[\w-]+)`", text))


def test_explore_a_history_runs_on_a_simulated_one(tmp_path: Path) -> None:
    settings = configuration.load(home=tmp_path)
    folder.write(world.build(world.Options(users=150, seed=3, prevalence=0.03)), 30, tmp_path / "made")
    import_history(settings, tmp_path / "made" / folder.HISTORY, "small")
    replay(settings, "small")
    given = {"VIGIL_HOME": str(tmp_path), "VIGIL_DATA": "small"}
    printed = notebooks.run("01-explore-a-history.ipynb", configuration.inherited() | given)
    assert "best feature alone: " in printed
