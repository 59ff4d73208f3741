"""docs/feast.md cannot rot: its commands and its Python are run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from feature_repo.settings import Settings
from pipelines.history import import_history
from pipelines.replay import replay
from pipelines.simulator import folder, world
from tests.live import environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "feast.md").read_text()
DATA = "feast-page"


@pytest.fixture(scope="module")
def environ(stack: Settings) -> dict[str, str]:
    """Of a person with a replayed data set. The states go online by force: other tests have ledgers of their own."""
    made = stack.home / "feast-page-made"
    folder.write(world.build(world.Options(users=60, seed=5)), 30, made)
    import_history(stack, made / folder.HISTORY, DATA)
    replay(stack, DATA, online=True, force=True)
    programs = Path(sys.executable).parent
    given = environment(stack)
    return given | {"VIGIL_DATA": DATA, "PATH": f"{programs}:{given['PATH']}"}


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def test_the_commands_of_the_page_run(environ: dict[str, str]) -> None:
    command = ["bash", "-euc", blocks("sh")]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("vigil_autoencoder_online", "payments_7d", "mean_amount_30d"))


def test_the_python_of_the_page_runs(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "RECORD_VIEW_READ_ONLY" in done.stdout


def test_the_page_names_every_view_and_service(stack: Settings) -> None:
    from feature_repo import definitions

    store = definitions.apply(stack)
    things = [*store.list_all_feature_views(), *store.list_feature_services(), *store.list_entities()]
    assert all(f"`{thing.name}`" in PAGE for thing in things if thing.name != "__dummy")
