"""A recipe is a whole configuration; a slip in an override is refused before anything runs."""

from dataclasses import fields

import pytest

from feature_repo.errors import BadConfiguration
from training import recipes
from training.recipes import RECIPES, Recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_named_after_itself_and_valid(name: str) -> None:
    assert recipes.named(name).name == name


def test_overrides_take_the_type_of_their_field() -> None:
    chosen = recipes.named("default", ["seeds=5", "noise=0.3", "baselines=false", "batch_rows=16_384"])
    assert (chosen.seeds, chosen.noise, chosen.baselines, chosen.batch_rows) == (5, 0.3, False, 16_384)


def test_names_keep_their_underscores() -> None:
    chosen = recipes.named("default", ["kind=isolation_forest", "without=rate_7d, amount_z"])
    assert (chosen.kind, chosen.left_out) == ("isolation_forest", ("rate_7d", "amount_z"))


def test_a_recipe_is_not_changed_by_overriding_it() -> None:
    recipes.named("default", ["seeds=5"])
    assert recipes.named("default").seeds == Recipe("default").seeds


@pytest.mark.parametrize(
    "override",
    [
        "seeds",
        "sedes=3",
        "seeds=three",
        "baselines=yes",
        "name=other",
        "seeds=0",
        "alert_budget=1",
        "noise=-1",
        "=3",
        "kind=oracle",
        "leaves=1",
    ],
)
def test_a_slip_is_refused(override: str) -> None:
    with pytest.raises(BadConfiguration):
        recipes.named("default", [override])


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(BadConfiguration, match="default, fast, boosted"):
        recipes.named("slow")


def test_the_noise_ladder_lies_around_its_middle() -> None:
    chosen = recipes.named("default", ["seeds=3", "noise=2", "noise_step=2"])
    assert [chosen.noise_of(network) for network in range(3)] == [1, 2, 4]
    assert recipes.named("default", ["seeds=1", "noise=2"]).noise_of(0) == 2


def test_every_field_can_be_set() -> None:
    for field in fields(Recipe):
        if field.name != "name":
            value = getattr(recipes.default(), field.name)
            assert recipes.named("default", [f"{field.name}={value}"]) == recipes.default()
