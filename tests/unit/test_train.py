"""From a window of rows to a checked, calibrated, judged artefact; no registry, no feature store."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest

from feature_repo.errors import BadConfiguration
from feature_repo.features import NAMES, WIDTH, feature_set_id
from serving import artifact, scorer
from serving.wire import NO_REASON
from tests.cases.tables import CONSTANT, FIRST_DAY, PLANTED, training_set
from training import data, recipes
from training.data import TrainingSet, Truth
from training.heldout import fit_folds, score_folds, split_days
from training.page import html
from training.registration import Fitted
from training.report import metrics_of
from training.train import fit_model

SMALL = ["updates=150", "batch_rows=512", "seeds=1", "noise=0.5"]  # the table has few causes: little noise
TIME = pa.timestamp("us", tz="UTC")
WINDOW = (FIRST_DAY, FIRST_DAY + timedelta(days=5))


@pytest.fixture(scope="module")
def rows() -> TrainingSet:
    return training_set()


@pytest.fixture(scope="module")
def fitted(rows: TrainingSet) -> Fitted:
    recipe = recipes.named("default", [*SMALL, "folds=2", "alert_budget=0.02"])
    return fit_model(rows, recipe, "vigil-autoencoder", WINDOW)


@pytest.fixture(scope="module")
def model(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> artifact.Artifact:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    sha256 = artifact.save(path, fitted.model, fitted.manifest)
    return artifact.load(path, sha256)


def test_the_manifest_says_what_the_model_consumes(fitted: Fitted, rows: TrainingSet) -> None:
    manifest = fitted.manifest
    constant = tuple(name for name, column in zip(NAMES, rows.x.T, strict=True) if np.ptp(column) == 0)
    assert CONSTANT in constant and manifest.dropped_columns == constant
    assert set(manifest.columns) == set(NAMES) - set(constant)
    assert manifest.feature_set_id == feature_set_id(manifest.columns)
    assert (manifest.train_from, manifest.train_to) == ("2024-03-01", "2024-03-06")
    assert len(manifest.golden_scores) >= 16


def test_a_feature_left_out_is_not_consumed_and_the_data_are_the_same(rows: TrainingSet, fitted: Fitted) -> None:
    recipe = recipes.named("fast", [*SMALL, "holdout_share=0.4", "without=rate_7d, amount_z", "baselines=false"])
    manifest = fit_model(rows, recipe, "vigil-autoencoder", WINDOW).manifest
    assert set(fitted.manifest.columns) - set(manifest.columns) == {"rate_7d", "amount_z"}
    assert {"rate_7d", "amount_z"} < set(manifest.dropped_columns)
    assert manifest.feature_set_id != fitted.manifest.feature_set_id
    assert manifest.data_sha256 == fitted.manifest.data_sha256, "the gate asks what it was trained on, not with"


def test_a_feature_that_does_not_exist_cannot_be_left_out(rows: TrainingSet) -> None:
    with pytest.raises(BadConfiguration, match="there is no feature of_tomorrow"):
        fit_model(rows, recipes.named("fast", ["without=of_tomorrow"]), "vigil-autoencoder", WINDOW)


def test_the_saved_artefact_loads_and_finds_the_planted_frauds(model: artifact.Artifact) -> None:
    fresh = training_set(seed=5)
    columns = [NAMES.index(name) for name in model.manifest.columns]
    scored = scorer.score(model, fresh.x[:, columns])
    alerts = scored["score"] >= model.manifest.threshold
    assert alerts[fresh.label].mean() > 0.9
    named = scored["reasons"][fresh.label & alerts, 0]
    reason = scorer.reason_matrix((NAMES[PLANTED],))[0].argmax()
    assert (named == reason).mean() > 0.8
    assert (named != NO_REASON).all()


def test_the_threshold_gives_the_alert_budget_on_all_held_out_payments(fitted: Fitted, rows: TrainingSet) -> None:
    share = np.mean(list(fitted.report["alert_share_by_day"].values()))
    assert share == pytest.approx(0.02, abs=0.004)
    assert 0 < fitted.manifest.threshold < 1


def test_the_report_is_judged_on_held_out_payments_beside_its_baselines(fitted: Fitted) -> None:
    metrics = metrics_of(fitted.report)
    assert metrics["held_out_average_precision"] > 0.8
    assert {"isolation_forest_average_precision", "mahalanobis_average_precision"} <= metrics.keys()
    assert fitted.report["reasons"] == {"skipped": "the true mechanism of these payments is not known"}
    assert fitted.report["rows"]["known_fraud"] + fitted.report["rows"]["trained_on"] == 6_000


def test_the_report_says_what_the_known_frauds_made_of_the_columns(fitted: Fitted) -> None:
    weights = fitted.report["columns"]["weights"]
    assert set(weights) == set(fitted.manifest.columns)
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    assert next(iter(weights)) == NAMES[PLANTED]
    page = html(fitted.report, fitted.manifest, b"")
    assert f"<td>{weights[NAMES[PLANTED]]:.4g}</td>" in page


def test_scores_of_a_week_say_how_rare_later_ordinary_payments_are() -> None:
    """The promise of MODELS §3 through everything: folds, unreported frauds, and the model of the whole window."""
    recipe = recipes.named("mahalanobis", ["baselines=false"])  # the quickest kind to fit
    week = fit_model(training_set(rows=14_000, days=7), recipe, "vigil-autoencoder", WINDOW)
    later = training_set(rows=50_000, days=7, seed=9)
    session = onnxruntime.InferenceSession(week.model.SerializeToString())
    columns = [NAMES.index(name) for name in week.manifest.columns]
    scores = session.run(["score"], {"features": later.x[~later.label][:, columns]})[0]
    assert (scores >= 0.25).mean() == pytest.approx(0.1, rel=0.1)
    assert (scores >= 0.5).mean() == pytest.approx(0.01, rel=0.25)
    assert (scores >= 0.75).mean() == pytest.approx(0.001, rel=0.7)


def test_the_same_data_and_recipe_give_the_same_bytes(fitted: Fitted, rows: TrainingSet) -> None:
    again = fit_model(rows, fitted.recipe, "vigil-autoencoder", WINDOW)
    assert again.model.SerializeToString() == fitted.model.SerializeToString()
    assert again.manifest == fitted.manifest


def test_known_fraud_weighs_columns_and_trains_no_network(rows: TrainingSet) -> None:
    recipe = recipes.named("fast", SMALL)
    taught = fit_folds(rows, recipe)[0].model
    spoilt = rows.x.copy()
    spoilt[rows.label] = 1e6
    same = fit_folds(replace(rows, x=spoilt), recipe)[0].model
    np.testing.assert_array_equal(taught.expected(rows.x), same.expected(rows.x))
    assert not np.array_equal(taught.weights, same.weights)


def test_folds_hold_out_whole_days_and_every_row_once(rows: TrainingSet) -> None:
    folds = split_days(rows, recipes.named("default", ["folds=3"]))
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(len(rows)))
    days = [set(rows.day[fold].tolist()) for fold in folds]
    assert not days[0] & days[1] and not days[1] & days[2] and not days[0] & days[2]


def test_one_fold_holds_out_the_last_days(rows: TrainingSet) -> None:
    (held,) = split_days(rows, recipes.named("fast", ["holdout_share=0.3"]))
    assert set(rows.day[held].tolist()) == set(np.unique(rows.day)[-2:].tolist())


def test_a_held_out_score_comes_from_a_network_that_has_not_seen_the_day(rows: TrainingSet) -> None:
    """What a held-out day looks like has no part in the network that scores it."""
    recipe = recipes.named("default", [*SMALL, "folds=2", "baselines=false"])
    folds = fit_folds(rows, recipe)
    spoilt = rows.x.copy()
    spoilt[folds[0].rows] *= 100
    again = fit_folds(replace(rows, x=spoilt), recipe)
    probe = rows.x[:100]
    np.testing.assert_array_equal(folds[0].model.score(probe), again[0].model.score(probe))
    assert score_folds(rows, folds, recipe).rows.tolist() == list(range(len(rows)))


def test_a_window_of_one_day_is_refused(rows: TrainingSet) -> None:
    with pytest.raises(BadConfiguration, match="one day"):
        split_days(rows.take(rows.day == rows.day[0]), recipes.default())


def test_labels_too_young_to_calibrate_on_are_refused(rows: TrainingSet) -> None:
    young = replace(rows, too_young=np.ones(len(rows), bool))
    with pytest.raises(BadConfiguration, match="old enough"):
        fit_model(young, recipes.named("fast", SMALL), "vigil-autoencoder", WINDOW)


def window(label_times: list[datetime | None], is_fraud: list[bool | None]) -> pa.Table:
    count = len(label_times)
    start = datetime(2024, 3, 1, 12, tzinfo=UTC)
    return pa.table(
        {
            "transaction_id": [f"t{row}" for row in range(count)],
            "user_id": ["u"] * count,
            "amount": [10.0] * count,
            "event_time": pa.array([start + timedelta(hours=row) for row in range(count)], TIME),
            "is_fraud": pa.array(is_fraud, pa.bool_()),
            "label_time": pa.array(label_times, TIME),
        }
    )


def vectors(ids: list[str]) -> pa.Table:
    values = {name: pa.array(np.arange(len(ids)), pa.float32()) for name in NAMES}
    return pa.table({"transaction_id": ids, **values})


def test_a_label_that_arrives_later_does_not_exist_yet() -> None:
    cut = datetime(2024, 3, 8, tzinfo=UTC)
    table = window([cut, cut + timedelta(microseconds=1), None], [True, True, False])
    rows = data.joined(table, vectors(["t2", "t0", "t1"]), cut, timedelta(days=7))
    assert rows.label.tolist() == [True, False, False]
    assert rows.label_known.tolist() == [True, False, False]


def test_rows_meet_their_vectors_by_id_not_by_order() -> None:
    cut = datetime(2024, 3, 8, tzinfo=UTC)
    rows = data.joined(window([None] * 3, [None] * 3), vectors(["t2", "t0", "t1"]), cut, timedelta(0))
    assert rows.transaction_id.to_pylist() == ["t0", "t1", "t2"]
    assert rows.x[:, 0].tolist() == [1, 2, 0]
    assert rows.x.shape == (3, WIDTH)


def test_payments_without_a_vector_are_left_out_and_counted() -> None:
    cut = datetime(2024, 3, 8, tzinfo=UTC)
    rows = data.joined(window([None] * 3, [None] * 3), vectors(["t1"]), cut, timedelta(0))
    assert rows.transaction_id.to_pylist() == ["t1"]
    assert rows.without_features == 2


def test_rows_younger_than_the_median_delay_are_too_young() -> None:
    cut = datetime(2024, 3, 2, 13, tzinfo=UTC)
    rows = data.joined(window([None] * 3, [None] * 3), vectors(["t0", "t1", "t2"]), cut, timedelta(days=1))
    assert rows.too_young.tolist() == [False, False, True]


def test_the_median_label_delay_is_that_of_reported_frauds() -> None:
    start = datetime(2024, 3, 1, 12, tzinfo=UTC)
    times = [start + timedelta(days=2), start + timedelta(days=4, hours=1), start + timedelta(days=90), None]
    table = window(times, [True, True, False, True])
    assert data.median_label_delay(table) == timedelta(days=3)
    assert data.median_label_delay(table.slice(3)) == timedelta(0)


def test_the_truth_is_empty_for_ordinary_payments() -> None:
    truth = Truth(
        pa.table(
            {
                "transaction_id": ["b"],
                "mechanism": ["stolen_card"],
                "reason": ["burst_of_activity"],
                "reasons": [["burst_of_activity"]],
            }
        )
    )
    mechanism, reason = truth.of(pa.array(["a", "b"]))
    assert mechanism.tolist() == ["", "stolen_card"]
    assert reason.tolist() == ["", "burst_of_activity"]
    assert truth.true_reasons(pa.array(["a", "b"])).sum(axis=1).tolist() == [0, 1]


def test_the_hash_of_a_window_changes_with_a_label(rows: TrainingSet) -> None:
    other = rows.label.copy()
    other[0] = not other[0]
    assert replace(rows, label=other).sha256() != rows.sha256()
    assert replace(rows).sha256() == rows.sha256()


def test_a_day_is_a_utc_day(rows: TrainingSet) -> None:
    assert date(1970, 1, 1) + timedelta(days=int(rows.day[0])) == FIRST_DAY
