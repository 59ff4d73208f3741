"""The model line on a real registry: register, promote, roll back, refuse, score."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from feature_repo.errors import BadConfiguration, DependencyDown, PromotionRefused, StoreUnavailable
from feature_repo.settings import Settings
from pipelines.cli import app
from pipelines.promote import Promotion, promote, rollback
from pipelines.scoring import score_window
from pipelines.versions import Versions
from serving import artifact
from serving.source import FILE_NAME
from tests.cases import data_sets, tiny_model
from tests.cases.registry import publish
from tests.cases.tables import FIRST_DAY, training_set
from training import recipes
from training.registration import Fitted, register
from training.train import fit_model, train

LAST_DAY = FIRST_DAY + timedelta(days=5)
SMALL = ["updates=150", "batch_rows=512", "seeds=1", "noise=0.5", "alert_budget=0.02", "holdout_share=0.4"]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit_model(training_set(), recipes.named("fast", SMALL), "vigil-autoencoder", (FIRST_DAY, LAST_DAY))


@pytest.fixture
def line(stack: Settings) -> Settings:
    """Settings with a registered model of the test's own."""
    return stack.model_copy(update={"model_name": f"line-{uuid.uuid4().hex[:8]}"})


def sound(settings: Settings, folder: Path, scale: float = 0.1) -> str:
    file = folder / FILE_NAME
    return publish(settings, file, {"artifact_sha256": tiny_model.write(file, scale=scale)})


UNTRAINED = "a tiny model of no data set"  # why these versions go past the gate


def forced(settings: Settings, version: str, actor: str) -> Promotion:
    """Past the gate's judgement, never past integrity."""
    return promote(settings, version, actor, override=UNTRAINED)


def audited(settings: Settings) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(settings.postgres_reader_dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT actor, action, before, after FROM audit WHERE subject = %s ORDER BY id", (settings.model_name,)
            )
            return cursor.fetchall()
    finally:
        connection.close()


def test_a_registered_version_is_one_checked_file_with_its_report(line: Settings, fitted: Fitted) -> None:
    version = register(line, fitted)
    assert version == "1"
    (listed,) = Versions(line).all()
    assert (listed.recipe, listed.feature_set_id) == ("fast", fitted.manifest.feature_set_id)
    assert listed.metrics["held_out_average_precision"] == pytest.approx(fitted.report["held_out"]["average_precision"])
    loaded = Versions(line).load(version)
    assert loaded.sha256 == listed.artifact_sha256
    assert loaded.manifest == fitted.manifest
    client = mlflow.MlflowClient(line.mlflow_url)
    assert {file.path for file in client.list_artifacts(listed.run_id)} >= {"report.json", "report.html", "curves.png"}
    assert client.get_run(listed.run_id).data.tags["feast_feature_service"] == "vigil_autoencoder"
    assert client.get_run(listed.run_id).data.params["data_sha256"] == fitted.manifest.data_sha256


def test_promotion_moves_the_aliases_and_writes_the_audit_log(line: Settings, tmp_path: Path) -> None:
    first, second = sound(line, tmp_path, 0.1), sound(line, tmp_path, 0.2)
    done = forced(line, first, "ada")
    assert done == Promotion("1", None, changed=True, request=done.request)
    done = forced(line, "latest", "ada")
    assert done == Promotion(second, "1", changed=True, request=done.request)
    assert Versions(line).aliases() == {"champion": "2", "previous": "1"}
    assert audited(line) == [
        ("ada", "promote", {}, {"champion": "1"}),
        ("ada", "promote", {"champion": "1"}, {"champion": "2", "previous": "1"}),
    ]


def test_promoting_the_champion_again_changes_nothing(line: Settings, tmp_path: Path) -> None:
    version = sound(line, tmp_path)
    forced(line, version, "ada")
    assert not forced(line, "champion", "ada").changed
    assert len(audited(line)) == 1


def test_a_rollback_can_be_rolled_back(line: Settings, tmp_path: Path) -> None:
    for scale in (0.1, 0.2):
        forced(line, sound(line, tmp_path, scale), "ada")
    assert rollback(line, "ben").version == "1"
    assert Versions(line).aliases() == {"champion": "1", "previous": "2"}
    assert rollback(line, "ben").version == "2"
    assert [action for _, action, _, _ in audited(line)] == ["promote", "promote", "rollback", "rollback"]


def test_without_a_previous_champion_there_is_no_rollback(line: Settings, tmp_path: Path) -> None:
    forced(line, sound(line, tmp_path), "ada")
    with pytest.raises(BadConfiguration, match="no previous champion"):
        rollback(line, "ada")


def truncated(file: Path) -> dict[str, str]:
    tags = {"artifact_sha256": tiny_model.write(file)}
    file.write_bytes(file.read_bytes()[:-10])
    return tags


def untagged(file: Path) -> dict[str, str]:
    tiny_model.write(file)
    return {}


def with_nan_weights(file: Path) -> dict[str, str]:
    tiny_model.write(file)
    model = onnx.load(str(file))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    weight.CopyFrom(numpy_helper.from_array(np.array(np.nan, "<f4"), "scale"))
    manifest = next(entry.value for entry in model.metadata_props if entry.key == artifact.MANIFEST_KEY)
    return {"artifact_sha256": artifact.save(file, model, artifact.Manifest.from_json(manifest))}


def with_columns_swapped(file: Path) -> dict[str, str]:
    tiny_model.write(file)
    manifest = artifact.load(file).manifest
    swapped = replace(manifest, columns=manifest.columns[::-1])
    return {"artifact_sha256": artifact.save(file, onnx.load(str(file)), swapped)}


def with_stale_golden_rows(file: Path) -> dict[str, str]:
    tiny_model.write(file)
    manifest = artifact.load(file).manifest
    stale = replace(manifest, golden_scores=[score + 1e-3 for score in manifest.golden_scores])
    return {"artifact_sha256": artifact.save(file, onnx.load(str(file)), stale)}


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (truncated, "sha256"),
        (untagged, "sha256"),
        (with_nan_weights, "weights"),
        (with_columns_swapped, "feature_set"),
        (with_stale_golden_rows, "golden_rows"),
    ],
)
def test_an_unsound_artefact_is_refused_by_name_and_moves_nothing(
    line: Settings, tmp_path: Path, spoil: Any, check: str
) -> None:
    forced(line, sound(line, tmp_path), "ada")
    file = tmp_path / FILE_NAME
    tags = spoil(file)
    bad = publish(line, file, tags)
    with pytest.raises(PromotionRefused) as refused:
        forced(line, bad, "ada")
    assert [failure.split(" ")[0] for failure in refused.value.failures] == [check]
    assert Versions(line).aliases() == {"champion": "1"}
    assert len(audited(line)) == 1


def test_an_unknown_version_names_the_known_ones(line: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no version"):
        forced(line, "1", "ada")
    sound(line, tmp_path)
    with pytest.raises(BadConfiguration, match="there are 1 and latest"):
        forced(line, "12", "ada")


def test_no_alias_moves_without_its_audit_row(line: Settings, tmp_path: Path) -> None:
    version = sound(line, tmp_path)
    nowhere = line.model_copy(update={"postgres_dsn": "postgresql://vigil_writer@127.0.0.1:1/vigil"})
    with pytest.raises(StoreUnavailable):
        forced(nowhere, version, "ada")
    assert Versions(line).aliases() == {}


def test_a_registry_that_is_away_is_said_to_be(line: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DependencyDown, match="MLflow"):
        Versions(line.model_copy(update={"mlflow_url": "http://127.0.0.1:1"})).all()


@pytest.fixture
def data_set(line: Settings) -> str:
    """A data set on disk as import and replay leave it; every fiftieth payment has no vector."""
    return data_sets.write(line, training_set(), without_vector=7)


def test_trained_through_feast_and_scored_offline_every_transaction_once(
    line: Settings, data_set: str, tmp_path: Path
) -> None:
    version = train(line, data_set, FIRST_DAY, LAST_DAY - timedelta(days=1), None, "fast", SMALL)
    out = tmp_path / "scores.parquet"
    done = score_window(line, data_set, "latest", FIRST_DAY, LAST_DAY, out)
    scores = pq.read_table(out)
    history = pq.read_table(line.home / "data" / data_set / "history.parquet")
    assert sorted(scores["transaction_id"].to_pylist()) == sorted(history["transaction_id"].to_pylist())
    assert (done["transactions"], done["unscored"], done["model_version"]) == (6_000, 120, version)
    unscored = scores.filter(pa.compute.is_null(scores["anomaly_score"]))
    assert len(unscored) == 120
    assert unscored["is_anomaly"].null_count == 120
    assert set(unscored["reasons"].to_pylist()[0]) == set()
    truth = history.select(["transaction_id", "is_fraud"]).to_pandas()
    found = scores.to_pandas().dropna().merge(truth, on="transaction_id")
    alert = found["is_anomaly"].astype(bool)
    assert alert[found["is_fraud"]].mean() > 0.9
    assert alert[~found["is_fraud"]].mean() < 0.05
    assert set(scores["model_version"].to_pylist()) == {version}
    for row in scores.select(["is_anomaly", "reasons", "evidence"]).to_pylist():
        assert {item["reason"] for item in row["evidence"]} <= set(row["reasons"])
        assert row["is_anomaly"] or not row["evidence"]
    assert any(scores["evidence"].to_pylist())


def test_only_labels_that_had_arrived_are_used(line: Settings, data_set: str) -> None:
    from training.data import load_training_set, midnight

    early = midnight(FIRST_DAY + timedelta(days=8))
    rows = load_training_set(line, data_set, FIRST_DAY, LAST_DAY, early)
    known = rows.event_time + 5 * 86_400 * 1_000_000 <= early.timestamp() * 1_000_000
    everything = load_training_set(line, data_set, FIRST_DAY, LAST_DAY)
    assert everything.label.sum() > rows.label.sum() > 0
    np.testing.assert_array_equal(rows.label, everything.label & known)


def test_the_commands_print_what_happened(
    line: Settings, data_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGIL_HOME", str(line.home))
    monkeypatch.setenv("VIGIL_MODEL_NAME", line.model_name)
    version = train(line, data_set, FIRST_DAY, LAST_DAY, None, "fast", SMALL)

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    monkeypatch.setattr("pipelines.quality.require_valid", lambda settings, name: None)  # not a whole history
    refused = CliRunner().invoke(app, ["promote", version, "--data", data_set])
    assert isinstance(refused.exception, PromotionRefused)
    assert any(failure.startswith("INSUFFICIENT_EVIDENCE") for failure in refused.exception.failures)
    done = run("promote", version, "--data", data_set, "--override", "six days are all there is")
    assert {name: done[name] for name in ("version", "previous", "changed")} == {
        "version": version, "previous": None, "changed": True,
    }  # fmt: skip
    (listed,) = run("models")
    assert (listed["version"], listed["aliases"], listed["recipe"]) == (version, ["champion"], "fast")
    assert (listed["gate"]["outcome"], listed["gate"]["failed"]) == ("moved", ["INSUFFICIENT_EVIDENCE"])
    lower = run("threshold", "set", "0.004")
    assert (lower["version"], lower["previous"]) == ("2", version)
    before, after = (Versions(line).load(one).manifest for one in (version, "2"))
    assert after.alert_budget == 0.004 and after.threshold > before.threshold
    assert replace(after, alert_budget=before.alert_budget, threshold=before.threshold) == before
    assert [action for _, action, _, _ in audited(line)] == ["promote", "threshold"]
    out = tmp_path / "scores.parquet"
    days = ["--from", str(FIRST_DAY), "--to", str(FIRST_DAY)]
    scored = run("score", "--data", data_set, "--model", "champion", *days, "--out", str(out))
    assert scored["transactions"] == len(pq.read_table(out)) > 0
