"""Recipes: each function returns one whole, frozen training configuration; `--set KEY=VALUE` changes a field."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from feature_repo.errors import BadConfiguration


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on besides its data. The string under a field is its unit."""

    name: str
    kind: str = "autoencoder"
    """of model: autoencoder, boosted, isolation_forest, mahalanobis or rule"""

    without: str = ""
    """features left out, with commas between: to learn what one of them is worth, or what serves without it"""

    hidden: int = 100
    """units of the layer before and after the code (MODELS.md §1.5)"""
    code: int = 20
    """units of the code"""
    noise: float = 1.4
    """standard deviation of the noise added while training, in deviations of a standardised input: the middle
    of the ensemble. A code nearly as wide as the catalogue copies a row that is hardly disturbed, odd values
    included"""
    noise_step: float = 2.0
    """factor between the noise of one network and the next"""
    seeds: int = 3
    """networks in the ensemble"""
    seed: int = 7
    """of the first network; the others count up from it"""
    updates: int = 250
    """optimiser steps per network"""
    batch_rows: int = 8_192
    """rows per step at most; a small table is cut into at least 32 batches"""
    learning_rate: float = 4e-3
    """Adam's, at the top of one cosine cycle"""

    soft_clip: float = 5.0
    """robust deviations beyond which a standardised input grows only with its logarithm"""
    reach: float = 4.0
    """standardised deviations at which what a network reads is cut; residuals are measured from the uncut value"""
    variance_floor: float = 1e-4
    """least residual variance of a feature, in variances of a standardised input"""

    belief: float = 100.0
    """how strongly columns are held to count alike before a fraud is known (training/weights.py); with 1e9 all
    columns count alike whatever is known"""

    trees: int = 200
    """boosting rounds; one ensemble for each of `seeds`"""
    leaves: int = 15
    """of a tree at most"""
    tree_learning_rate: float = 0.05
    """share of its answer that each tree adds"""
    tree_penalty: float = 10.0
    """on the squares of the leaves' answers"""
    tree_features: float = 0.5
    """share of the columns that each split may choose from"""

    folds: int = 3
    """parts, by day, for out-of-fold calibration; 1 holds out the last days instead"""
    holdout_share: float = 0.15
    """share of the window's days, at least one, that folds=1 holds out"""
    alert_budget: float = 0.005
    """share of all payments that may be alerts: the middle of the 0.1 to 1 % of payments that are fraud, so
    an analyst's queue is about as long as there are frauds to find"""
    baselines: bool = True
    """whether isolation forest, Mahalanobis distance and the best single rule are fitted beside it, for the report"""

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.without.split(",") if name.strip())

    def noise_of(self, network: int) -> float:
        """Noise of the ensemble's networks 0, 1, …: a ladder around `noise`."""
        return float(self.noise * self.noise_step ** (network - (self.seeds - 1) / 2))


def default() -> Recipe:
    """The recipe to promote from: three networks, calibrated out of fold."""
    return Recipe("default")


def fast() -> Recipe:
    """For a first look and for demonstrations: two networks, calibrated on the last days only, fitted once."""
    return Recipe("fast", seeds=2, batch_rows=4_096, folds=1)


def boosted() -> Recipe:
    """The supervised challenger: gradient boosting on the features and the autoencoder's score."""
    return Recipe("boosted", kind="boosted")


def isolation_forest() -> Recipe:
    return Recipe("isolation_forest", kind="isolation_forest")


def mahalanobis() -> Recipe:
    return Recipe("mahalanobis", kind="mahalanobis")


def rule() -> Recipe:
    """The best single threshold on one feature, found on the known frauds."""
    return Recipe("rule", kind="rule")


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (default, fast, boosted, isolation_forest, mahalanobis, rule)
}
KINDS = frozenset({"autoencoder", "boosted", "isolation_forest", "mahalanobis", "rule"})


def named(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` with `KEY=VALUE` overrides applied. Raises BadConfiguration."""
    if name not in RECIPES:
        raise BadConfiguration(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    for override in overrides:
        recipe = _with(recipe, override)
    _check(recipe)
    return recipe


def _with(recipe: Recipe, override: str) -> Recipe:
    key, separator, text = override.partition("=")
    kinds = {f.name: type(getattr(recipe, f.name)) for f in fields(recipe) if f.name != "name"}
    if not separator or key not in kinds:
        raise BadConfiguration(f"--set {override!r}: give KEY=VALUE with one of {', '.join(kinds)}")
    kind = kinds[key]
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise BadConfiguration(f"--set {override!r}: {text!r} is not of type {kind.__name__}") from error
    changed: Recipe = replace(recipe, **{key: value})  # type: ignore[arg-type]  # checked against the field above
    return changed


def _check(recipe: Recipe) -> None:
    positive: tuple[str, ...] = ("hidden", "code", "seeds", "updates", "batch_rows", "learning_rate", "folds")
    positive += ("noise_step", "soft_clip", "reach", "variance_floor", "trees", "tree_learning_rate")
    wrong = [key for key in positive if not getattr(recipe, key) > 0]
    wrong += [key for key in ("noise", "seed", "belief", "tree_penalty") if not getattr(recipe, key) >= 0]
    wrong += [key for key in ("holdout_share", "alert_budget") if not 0 < getattr(recipe, key) < 1]
    wrong += ["kind"] if recipe.kind not in KINDS else []
    wrong += ["leaves"] if recipe.leaves < 2 else []
    wrong += ["tree_features"] if not 0 < recipe.tree_features <= 1 else []
    if wrong:
        raise BadConfiguration(f"recipe {recipe.name}: out of range: {', '.join(sorted(wrong))}")
