"""The tutorial cannot lag: its change applies to the kernel as it is, and does what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from feature_repo.settings import inherited

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "add-one-feature.md").read_text()


def test_the_tutorials_feature_means_what_its_oracle_says(tmp_path: Path) -> None:
    (change,) = re.findall(r"^```diff\n(.*?)^```$", TUTORIAL, re.DOTALL | re.MULTILINE)
    for folder in ("feature_repo", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["git", "apply", "-"], input=change, cwd=tmp_path, text=True, check=True)
    compared = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/unit/test_kernel.py", "-k", "oracle_says_in_long_streams"],
        cwd=tmp_path,
        env=inherited() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert compared.returncode == 0, compared.stdout
    names = "from feature_repo import features; print(*features.NAMES)"
    told = subprocess.run(
        [sys.executable, "-c", names], cwd=tmp_path, env=inherited() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split()[-1] == "spend_1h"
