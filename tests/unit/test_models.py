"""Every kind of model is one kind of artefact: the same columns, scores, shares and golden rows."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest

from feature_repo.errors import ArtifactCorrupt, BadConfiguration
from feature_repo.features import CATALOGUE, NAMES, REASONS
from serving import artifact, scorer
from serving.artifact import Artifact
from tests.cases.tables import CONSTANT, FIRST_DAY, PLANTED, correlated, training_set, with_planted
from training import baselines, boosted, models, recipes
from training.evaluation import average_precision
from training.registration import Fitted
from training.train import fit_model
from training.trees import Ensemble, of_boosting

WINDOW = (FIRST_DAY, FIRST_DAY + timedelta(days=5))
SMALL = ["updates=60", "batch_rows=512", "seeds=1", "trees=40", "folds=2", "baselines=false", "alert_budget=0.02"]
KINDS = sorted(models.FITS)


def of_kind(kind: str) -> str:
    return "default" if kind == "autoencoder" else kind


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    recipe = recipes.named(of_kind(request.param), SMALL)
    return fit_model(training_set(), recipe, "vigil-autoencoder", WINDOW)


@pytest.fixture(scope="module")
def served(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return artifact.load(path, artifact.save(path, fitted.model, fitted.manifest))


def test_every_kind_of_model_has_a_recipe() -> None:
    assert {recipes.named(of_kind(kind)).kind for kind in KINDS} == recipes.KINDS == set(models.FITS)


def test_the_artefact_scores_fresh_payments_as_well_as_its_report_says(fitted: Fitted, served: Artifact) -> None:
    from training.evaluation import average_precision

    fresh = training_set(seed=5)
    columns = [NAMES.index(name) for name in served.manifest.columns]
    scored = scorer.score(served, fresh.x[:, columns])
    promised = fitted.report["held_out"]["average_precision"]
    assert average_precision(scored["score"], fresh.label) > promised - 0.12  # it has seen more than the folds had


def test_columns_and_drop_list_are_the_whole_catalogue(served: Artifact) -> None:
    manifest = served.manifest
    assert sorted(manifest.columns + manifest.dropped_columns) == sorted(NAMES)
    assert CONSTANT in manifest.dropped_columns


def test_weights_in_a_tree_that_are_no_numbers_are_refused(fitted: Fitted, tmp_path: Path) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(fitted.model)
    weights = [a for node in broken.graph.node for a in node.attribute if a.name == "target_weights"]
    if not weights:
        pytest.skip("a model without trees")
    weights[0].floats[0] = float("nan")
    path = tmp_path / "model.onnx"
    artifact.save(path, broken, fitted.manifest)
    with pytest.raises(ArtifactCorrupt, match="target_weights") as refused:
        artifact.load(path)
    assert refused.value.check == "weights"


@pytest.mark.parametrize("kind", ["autoencoder", "boosted", "mahalanobis"])
def test_the_planted_column_is_the_first_reason(kind: str) -> None:
    data, fresh = training_set(), training_set(seed=5)
    model = models.fit(data, recipes.named(of_kind(kind), SMALL))
    reasons = scorer.with_reasons(model.score(fresh.x), model.contributions(fresh.x), fresh.x, NAMES)["reasons"]
    assert (reasons[fresh.label, 0] == REASONS.index(CATALOGUE[PLANTED].reason)).mean() > 0.8


def test_parts_of_trees_and_the_expected_answer_at_the_roots_add_up() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = correlated(4_000, 6, seed=1)
    y = (x[:, 1] + x[:, 2] > 0.5) & (x[:, 3] > 0)
    booster = HistGradientBoostingClassifier(max_iter=25, max_leaf_nodes=9).fit(x, y)
    trees = tuple(of_boosting(booster, 0.5))
    answers = Ensemble(trees, 6).answers(x)
    expected = sum(tree.expected()[0] for tree in trees)
    np.testing.assert_allclose(answers[:, :-1].sum(axis=1) + expected, answers[:, -1], atol=1e-4)
    half = (booster.decision_function(x) - booster._baseline_prediction.item()) / 2
    np.testing.assert_allclose(answers[:, -1], half, atol=1e-4)
    assert np.abs(answers[:, 1:4]).sum() > 20 * np.abs(answers[:, 4]).sum()


def test_a_float_at_a_threshold_goes_the_same_way_in_both() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = (np.arange(2_000, dtype=np.float32) / np.float32(7)).reshape(-1, 1)
    booster = HistGradientBoostingClassifier(max_iter=5, max_bins=255).fit(x, x[:, 0] % 60 > 31)
    cuts = np.unique(np.concatenate([tree.threshold for tree in of_boosting(booster, 1)])).astype(np.float32)
    edges = np.concatenate([cuts, np.nextafter(cuts, np.float32(np.inf)), np.nextafter(cuts, np.float32(-np.inf))])
    answers = Ensemble(tuple(of_boosting(booster, 1)), 1).answers(edges.reshape(-1, 1))[:, 1]
    raw = booster.decision_function(edges.reshape(-1, 1)) - booster._baseline_prediction.item()
    np.testing.assert_allclose(answers, raw, atol=1e-5)


def test_squares_of_whitened_columns_are_the_mahalanobis_distance() -> None:
    x = correlated(3_000, 6, seed=2)
    fitted = baselines.mahalanobis(x)
    kept = x[:, fitted.kept].astype(np.float64)
    precision = np.linalg.inv(np.cov(kept, rowvar=False))
    centred = kept - kept.mean(axis=0)
    np.testing.assert_allclose(fitted.score(x), np.einsum("ij,jk,ik->i", centred, precision, centred), rtol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_rule_finds_its_column_and_side(sign: int) -> None:
    x = correlated(3_000, 8, seed=3)
    fraud = np.random.default_rng(4).random(3_000) < 0.02
    x[fraud, 2] += sign * 6
    rule = baselines.rule(x, fraud)
    assert rule.kept == (2,)
    assert rule.score(x)[fraud].mean() > rule.score(x)[~fraud].mean()


def test_without_a_known_fraud_there_is_no_rule() -> None:
    with pytest.raises(BadConfiguration, match="no fraud is known"):
        baselines.rule(correlated(500, 4, seed=1), np.zeros(500, bool))


def test_boosting_needs_frauds_old_enough_to_learn_from() -> None:
    x = correlated(3_000, 6, seed=1)
    fraud = with_planted(x, 0.05, seed=2)
    with pytest.raises(BadConfiguration, match="0 known frauds old enough"):
        boosted.fit(x, fraud, np.ones(3_000, bool), recipes.named("boosted", SMALL))


def test_rows_that_are_too_young_teach_nothing() -> None:
    x = correlated(3_000, 6, seed=1)
    fraud = with_planted(x, 0.05, seed=2)
    young = np.arange(3_000) >= 2_000
    recipe = recipes.named("boosted", SMALL)
    taught = boosted.fit(x, fraud, young, recipe)
    assert taught.boosters[0]._predictors[0][0].nodes["count"][0] == 2_000


def test_frauds_far_out_are_found_however_few_rows_lie_there() -> None:
    """One row in a thousand, above all others: the highest of 255 even bins holds four times as many."""
    random = np.random.default_rng(6)
    x, later = (random.exponential(size=(40_000, 3)).astype(np.float32) for _ in range(2))
    fraud = np.zeros(len(x), bool)
    fraud[:40] = True
    x[fraud, 1] = later[fraud, 1] = 20.0
    model = boosted.fit(x, fraud, np.zeros(len(x), bool), recipes.named("boosted", SMALL))
    assert average_precision(model.score(later), fraud) > 0.9


def test_scores_at_the_edge_of_a_threshold_are_told_from_settled_ones() -> None:
    x = correlated(3_000, 6, seed=1)
    fraud = with_planted(x, 0.05, seed=2)
    model = boosted.fit(x, fraud, np.zeros(3_000, bool), recipes.named("boosted", SMALL))
    settled = model.settled(x)
    assert 0.9 < settled.mean() <= 1
    through = model.detector.score(x)
    cuts = np.concatenate([tree.threshold[tree.asks(len(model.kept))] for tree in model.trees.trees])
    assert len(cuts)
    near = (np.abs(through[:, None] - cuts) <= 1e-4 * through[:, None]).any(axis=1)
    np.testing.assert_array_equal(settled, ~near)
