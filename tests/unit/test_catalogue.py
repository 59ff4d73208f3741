"""The feature catalogue: every declaration is whole, and what people are shown is made of it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from feature_repo.errors import BadConfiguration
from feature_repo.features import CATALOGUE, NAMES, REASONS, RING_SIZE, WINDOWS, Feature, Reason, feature_set_id
from pipelines.catalogue import COMMAND, markdown
from pipelines.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["features", *arguments])


@pytest.mark.parametrize("feature", CATALOGUE, ids=lambda feature: feature.name)
def test_a_feature_is_declared_with_all_of_its_parts(feature: Feature) -> None:
    assert feature.kinds and set(feature.kinds) <= set(WINDOWS)
    assert feature.meaning and feature.reason in REASONS
    assert (feature.dtype, feature.version >= 1) == ("float32", True)
    assert (str(RING_SIZE) in feature.beyond_ring) == ("ring" in feature.kinds)


def test_every_reason_has_a_feature_that_speaks_for_it_and_every_kind_of_window_is_used() -> None:
    assert {feature.reason for feature in CATALOGUE} == set(REASONS)
    assert {kind for feature in CATALOGUE for kind in feature.kinds} == set(WINDOWS)


def test_a_window_of_two_parts_rests_on_both_and_a_length_is_no_kind() -> None:
    kinds = {window: Feature("f", window, "m", Reason.BURST).kinds for window in ("24 hours / 30 days", "ring 10 min")}
    assert kinds == {"24 hours / 30 days": ("hours", "days"), "ring 10 min": ("ring",)}
    assert Feature("f", "half-life 7 days", "m", Reason.BURST).kinds == ("half-life",)


def test_the_committed_page_is_what_the_command_prints() -> None:
    assert run("--markdown").stdout == PAGE.read_text(), COMMAND


def test_the_page_shows_each_feature_once_under_its_reason() -> None:
    sections = dict(zip(REASONS, re.split(r"\n### .*\n", markdown())[1:], strict=True))
    for position, feature in enumerate(CATALOGUE):
        row = f"| {position} | `{feature.name}` | {feature.dtype} | {feature.window} | {feature.beyond_ring} | "
        assert [reason for reason in REASONS if row + feature.meaning in sections[reason]] == [feature.reason]


def test_the_table_and_its_json_name_every_feature() -> None:
    printed = run().stdout
    assert all(re.search(rf"^ +{name} ", printed, re.MULTILINE) for name in NAMES)
    told = json.loads(run("--json").stdout)
    assert told["feature_set_id"] == feature_set_id(NAMES)
    assert [entry["name"] for entry in told["features"]] == list(NAMES)
    assert {"window", "dtype", "meaning", "beyond_ring", "reason"} <= set(told["features"][0])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--markdown", "--json"),
        ("--markdown", "--user", "ada"),
        ("--merchant", "Shop", "--user", "ada"),
        ("--merchant", "Shop", "--transaction", "t1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*arguments).exception, BadConfiguration)
