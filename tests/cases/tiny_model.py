"""A model small enough to read: for tests of what serves models, not of what trains them."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from feature_repo import features
from serving import artifact
from serving.artifact import Manifest

COLUMNS = ("amount_log", "amount_z", "new_merchant", "history")


def graph(columns: tuple[str, ...] = COLUMNS, scale: float = 0.1) -> onnx.ModelProto:
    """score = 1 - exp(-scale * sum |x|), contributions = |x| / sum |x|."""
    width = len(columns)
    constants = {"scale": np.array(-scale, "<f4"), "one": np.array(1, "<f4"), "tiny": np.array(1e-6, "<f4")}
    nodes = [
        helper.make_node("Abs", ["features"], ["size"]),
        helper.make_node("Add", ["size", "tiny"], ["positive"]),
        helper.make_node("ReduceSum", ["positive", "axis"], ["total"], keepdims=1),
        helper.make_node("Div", ["positive", "total"], ["contributions"]),
        helper.make_node("Mul", ["total", "scale"], ["exponent"]),
        helper.make_node("Exp", ["exponent"], ["ordinary"]),
        helper.make_node("Sub", ["one", "ordinary"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["score"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["n", width]),
        ],
        weights,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(path: Path, columns: tuple[str, ...] = COLUMNS, scale: float = 0.1, threshold: float = 0.5) -> str:
    """A sound artefact at `path`; returns its sha256."""
    model = graph(columns, scale)
    rows = np.linspace(0, 2, 3 * len(columns), dtype=np.float32).reshape(3, -1)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = session.run(["score"], {"features": rows})[0]
    manifest = Manifest(
        model_name="vigil-autoencoder",
        recipe="tiny",
        columns=columns,
        feature_set_id=features.feature_set_id(columns),
        threshold=threshold,
        alert_budget=0.005,
        train_from="2024-01-01T00:00:00Z",
        train_to="2024-01-31T00:00:00Z",
        labels_as_of="2024-02-07T00:00:00Z",
        data_sha256=hashlib.sha256(b"no data").hexdigest(),
        dropped_columns=(),
        golden_features=rows.tolist(),
        golden_scores=scores.tolist(),
        created_at="2024-02-08T00:00:00Z",
    )
    return artifact.save(path, model, manifest)
