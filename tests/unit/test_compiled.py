import ast
import hashlib
from pathlib import Path

import pytest

import feature_repo
from feature_repo import compiled, json_tokens, words

FOLDER = Path(feature_repo.__file__).parent
STAMPED = {
    "scan": {"json_tokens", "words"},
    "decode": {"json_tokens", "literals", "scan", "words"},
    "columns": {"words"},
}


def imported(module: str) -> set[str]:
    """Modules of ours that hold what a module's compiled code may be made of."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    froms = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.removeprefix("feature_repo.") for name in froms if name.startswith("feature_repo.")} - {"compiled"}


@pytest.mark.parametrize("module", STAMPED)
def test_stamp_of_cached_code_covers_all_it_is_made_of(module: str) -> None:
    needed, seen = imported(module), set[str]()
    while needed - seen:
        name = (needed - seen).pop()
        seen.add(name)
        needed |= imported(name)
    assert needed == STAMPED[module]
    assert f"source_stamp({', '.join(sorted(STAMPED[module]))})" in (FOLDER / f"{module}.py").read_text()


def test_stamp_is_of_the_sources() -> None:
    content = b"".join(Path(str(module.__file__)).read_bytes() for module in (compiled, json_tokens, words))
    assert compiled.source_stamp(json_tokens, words) == hashlib.sha256(content).hexdigest()
    assert compiled.source_stamp(json_tokens) != compiled.source_stamp(words)
