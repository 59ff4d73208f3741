"""An artefact is one file that is refused for whatever is wrong with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from feature_repo import features
from feature_repo.errors import ArtifactCorrupt, FeatureInvalid, FeatureSetMismatch
from serving import artifact
from serving.artifact import MANIFEST_KEY, Manifest
from tests.cases import tiny_model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    tiny_model.write(path)
    return path


def manifest_of(file: Path) -> Manifest:
    return artifact.load(file).manifest


def resaved(file: Path, manifest: Manifest) -> Path:
    artifact.save(file, onnx.load(str(file)), manifest)
    return file


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    sha256 = tiny_model.write(path)
    loaded = artifact.load(path, sha256, version="7")
    assert loaded.sha256 == sha256
    assert loaded.version == "7"
    assert loaded.manifest.columns == tiny_model.COLUMNS
    scores, contributions = loaded.run(np.ones((3_000, 4), np.float32))
    assert scores.shape == (3_000,)
    np.testing.assert_allclose(contributions.sum(axis=1), 1, atol=1e-5)


def test_no_rows_give_no_scores(file: Path) -> None:
    scores, contributions = artifact.load(file).run(np.empty((0, 4), np.float32))
    assert scores.shape == (0,)
    assert contributions.shape == (0, 4)


def test_saving_twice_keeps_one_manifest(file: Path) -> None:
    manifest = replace(manifest_of(file), recipe="second")
    resaved(file, manifest)
    assert manifest_of(file).recipe == "second"


def test_another_hash_is_refused(file: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="sha256") as refused:
        artifact.load(file, "0" * 64)
    assert refused.value.check == "sha256"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04\x95pickle"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactCorrupt):
        artifact.load(path)


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ArtifactCorrupt):
        artifact.load(file)


def test_a_model_without_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(tiny_model.graph(), str(path))
    with pytest.raises(ArtifactCorrupt, match="0 manifests") as refused:
        artifact.load(path)
    assert refused.value.check == "manifest"


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"format": 2}', '{"format": 1, "columns": 3}'])
def test_a_manifest_that_cannot_be_read_is_refused(file: Path, text: str) -> None:
    model = onnx.load(str(file))
    next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY).value = text
    onnx.save_model(model, str(file))
    with pytest.raises(ArtifactCorrupt) as refused:
        artifact.load(file)
    assert refused.value.check == "manifest"


@pytest.mark.parametrize("threshold", ["-0.1", "1.1", "NaN", "null"])
def test_a_threshold_outside_the_scale_is_refused(file: Path, threshold: str) -> None:
    said = f'"threshold": {manifest_of(file).threshold}'
    model = onnx.load(str(file))
    entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    assert said in entry.value
    entry.value = entry.value.replace(said, f'"threshold": {threshold}')
    onnx.save_model(model, str(file))
    with pytest.raises(ArtifactCorrupt) as refused:
        artifact.load(file)
    assert refused.value.check == "manifest"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(file: Path, value: float) -> None:
    model = onnx.load(str(file))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    weight.CopyFrom(numpy_helper.from_array(np.array(value, "<f4"), "scale"))
    onnx.save_model(model, str(file))
    with pytest.raises(ArtifactCorrupt, match="scale is not finite") as refused:
        artifact.load(file)
    assert refused.value.check == "weights"


def test_weights_outside_the_file_are_refused(file: Path) -> None:
    model = onnx.load(str(file))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactCorrupt, match="outside the file"):
        artifact.load(file)


def test_changed_weights_fail_the_golden_rows(file: Path) -> None:
    model = onnx.load(str(file))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    weight.CopyFrom(numpy_helper.from_array(np.array(-0.11, "<f4"), "scale"))
    onnx.save_model(model, str(file))
    with pytest.raises(ArtifactCorrupt) as refused:
        artifact.load(file)
    assert refused.value.check == "golden_rows"


def test_a_model_without_golden_rows_is_refused(file: Path) -> None:
    resaved(file, replace(manifest_of(file), golden_features=[], golden_scores=[]))
    with pytest.raises(ArtifactCorrupt, match="golden"):
        artifact.load(file)


def test_columns_in_another_order_are_refused(file: Path) -> None:
    manifest = manifest_of(file)
    resaved(file, replace(manifest, columns=manifest.columns[::-1]))
    with pytest.raises(FeatureSetMismatch):
        artifact.load(file)


def test_a_feature_nobody_computes_is_refused(file: Path) -> None:
    resaved(file, replace(manifest_of(file), columns=("amount_log", "amount_z", "new_merchant", "shoe_size")))
    with pytest.raises(FeatureSetMismatch, match="shoe_size"):
        artifact.load(file)


def test_more_columns_than_the_graph_takes_are_refused(file: Path) -> None:
    wider = ("amount_log", "amount_z", "new_merchant", "history", "count_1h")
    manifest = manifest_of(file)
    resaved(file, replace(manifest, columns=wider, feature_set_id=features.feature_set_id(wider)))
    with pytest.raises(ArtifactCorrupt) as refused:
        artifact.load(file)
    assert refused.value.check == "graph"


def test_a_column_named_twice_is_refused(file: Path) -> None:
    twice = ("amount_log", "amount_log", "new_merchant", "history")
    resaved(file, replace(manifest_of(file), columns=twice, feature_set_id=features.feature_set_id(twice)))
    with pytest.raises(ArtifactCorrupt, match="twice"):
        artifact.load(file)


def test_a_value_that_is_not_finite_is_refused_with_its_place(file: Path) -> None:
    rows = np.ones((5, 4), np.float32)
    rows[3, 1] = np.inf
    with pytest.raises(FeatureInvalid) as refused:
        artifact.load(file).run(rows)
    assert (refused.value.row, refused.value.column) == (3, "amount_z")


@pytest.mark.parametrize("shape", [(5, 3), (5, 5), (4,)])
def test_rows_of_another_width_are_refused(file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureSetMismatch):
        artifact.load(file).run(np.ones(shape, np.float32))


def test_a_graph_that_loads_but_does_not_run_is_refused(file: Path) -> None:
    manifest = manifest_of(file)
    model = onnx.load(str(file))
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, 4], np.int64), "seven_rows"))
    model.graph.node[0].input[0] = "reshaped"
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["features", "seven_rows"], ["reshaped"]))
    artifact.save(file, model, manifest)
    with pytest.raises(ArtifactCorrupt, match="no answer") as refused:
        artifact.load(file)
    assert refused.value.check == "golden_rows"
