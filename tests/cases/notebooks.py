"""The notebooks, run as a person runs them: in a kernel of their own, against the home and names they are given."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = tuple(sorted(path.name for path in FOLDER.glob("*.ipynb")))
CELL_TIMEOUT_S = 600


def read(name: str) -> Any:
    return nbformat.read(FOLDER / name, as_version=4)


def run(name: str, environment: dict[str, str]) -> str:
    """Execute all cells; returns what they printed. Raises CellExecutionError for a cell that fails."""
    notebook = read(name)
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(FOLDER)}})
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
