"""Each image installs what its service imports, from the lock and nothing else."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from infra.docker.subset import blocks, subset

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
DOCKERFILE = (ROOT / "infra" / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
OURS = {"feature_repo", "serving", "streaming", "api", "training", "pipelines", "infra"}

# What each image runs. The command line is entered by its command: what other commands import in their
# functions is not needed.
ENTRIES = {
    "serving": ("serving.service",),
    "api": ("api.app",),
    "stream": ("pipelines.cli", "streaming.run", "streaming.window_job", "infra.local.jars"),  # of windows as well
    "indexer": ("pipelines.cli", "streaming.indexer"),
    "lifecycle": ("pipelines.cli", "pipelines.lifecycle"),
    "provision": ("infra.provision",),
}
AT_IMPORT_ONLY = {"pipelines.cli"}


def packages_of(image: str) -> list[str]:
    """The packages the Dockerfile names for an image."""
    match = re.search(rf"AS build-{image}\nRUN .*?requirements\.lock (.*?)>", DOCKERFILE)
    assert match, image
    return match[1].split()


def imports(module: str, *, at_import_only: bool, seen: set[str]) -> set[str]:
    """Top-level names of what a module of ours, and those it imports, import from others."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module in seen or not file.exists():
        return set()
    seen.add(module)
    found: set[str] = set()
    for name in _imported(ast.parse(file.read_text()), at_import_only):
        top = name.partition(".")[0]
        if top in OURS:
            found |= imports(name, at_import_only=at_import_only, seen=seen)
        elif top not in sys.stdlib_module_names:
            found.add(top)
    return found


def _imported(tree: ast.Module, at_import_only: bool) -> set[str]:
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if for_types or (at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        pending += ast.iter_child_nodes(node)
    return names


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """The packages, as the lock spells them, that an import name comes from."""
    return {
        name: {package.lower().replace("_", "-") for package in packages}
        for name, packages in packages_distributions().items()
    }


@pytest.mark.parametrize("image", ENTRIES)
def test_an_image_holds_every_package_its_service_imports(image: str, distributions: dict[str, set[str]]) -> None:
    needed: set[str] = set()
    for entry in ENTRIES[image]:
        found = imports(entry, at_import_only=entry in AT_IMPORT_ONLY, seen=set())
        assert found, f"{entry} imports nothing"
        needed |= found
    installed = set(blocks(subset(LOCK, packages_of(image))))
    missing = {name for name in needed if not distributions.get(name, {name}) & installed}
    assert not missing


def test_a_subset_has_what_is_needed_by_what_is_asked_for() -> None:
    part = blocks(subset(LOCK, ["elasticsearch"]))
    assert {"elasticsearch", "elastic-transport", "urllib3", "certifi"} <= set(part)
    assert not {"torch", "pyspark", "mlflow"} & set(part)


def test_a_subset_keeps_pins_and_hashes_as_they_are() -> None:
    for name, block in blocks(subset(LOCK, ["confluent-kafka"])).items():
        assert block in LOCK
        assert re.match(rf"{re.escape(name)}(\[.*\])?==\S+ \\\n    --hash=sha256:", block)


def test_the_whole_lock_is_understood() -> None:
    pins = re.findall(r"^[^\s#].*==", LOCK, re.MULTILINE)
    assert len(blocks(LOCK)) == len(pins)


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(KeyError):
        subset(LOCK, ["no-such-package"])
