"""The detector and its calibration as one ONNX graph: raw features in, score and contributions out.

Built node by node: the graph is the file's contract (serving/artifact.py), and every step stands beside
the torch or numpy line it must equal. `verify` compares the two on real rows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from feature_repo.errors import ArtifactCorrupt
from training import calibration as scale
from training.calibration import Calibration
from training.detector import BY_CHANCE, FAR, REMAINDER, TINY, Detector, Member

FloatArray = npt.NDArray[np.float32]

OPSET = 17  # old enough for every onnxruntime that serves it
IR_VERSION = 8
TOLERANCE = 1e-5  # between this graph and torch, for scores and contributions


class _Graph:
    """Nodes and constants in the order they are added; names count up."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def double(self, value: npt.ArrayLike) -> str:
        return self.constant(value, np.float64)

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


def to_onnx(detector: Detector, calibration: Calibration) -> onnx.ModelProto:
    """The graph over the columns the detector kept, in their order."""
    graph = _Graph()
    width = len(detector.kept)
    rows = _normalised(graph, detector)
    residuals = [_residuals(graph, member, rows) for member in detector.members]
    evidence = [_evidence(graph, member, part) for member, part in zip(detector.members, residuals, strict=True)]
    axis = graph.constant([1], np.int64)
    together = _mean(graph, evidence)
    loud = _loud(graph, _mean(graph, residuals), together)
    graph.add("Div", loud, graph.add("ReduceSum", loud, axis, keepdims=1), output="contributions")
    weighed = graph.add("Mul", together, graph.add("Sqrt", together))
    raw = graph.add("Mul", graph.add("ReduceSum", weighed, axis, keepdims=0), graph.constant(1 / width))
    _calibrated(graph, calibration, raw)
    onnx_graph = helper.make_graph(
        graph.nodes,
        "vigil",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["n", width]),
        ],
        graph.constants,
    )
    model = helper.make_model(
        onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="vigil"
    )
    onnx.checker.check_model(model)
    return model


def _normalised(graph: _Graph, detector: Detector) -> str:
    """Normalisation.__call__."""
    fitted = detector.normalisation
    clip = fitted.soft_clip
    centred = graph.add("Sub", "features", graph.constant(fitted.center.numpy()))
    scaled = graph.add("Div", centred, graph.constant(fitted.scale.numpy()))
    z = graph.add("Clip", scaled, graph.constant(-FAR), graph.constant(FAR))
    excess = graph.add("Relu", graph.add("Sub", graph.add("Abs", z), graph.constant(clip)))
    beyond = graph.add("Log", graph.add("Add", excess, graph.constant(1.0)))
    signed = graph.add("Mul", graph.add("Sign", z), beyond)
    inside = graph.add("Clip", z, graph.constant(-clip), graph.constant(clip))
    return graph.add("Add", inside, signed)


def _mean(graph: _Graph, parts: list[str]) -> str:
    total = parts[0] if len(parts) == 1 else graph.add("Sum", *parts)
    return graph.add("Mul", total, graph.constant(1 / len(parts)))


def _evidence(graph: _Graph, member: Member, residuals: str) -> str:
    """Tail.__call__."""
    scaled = graph.add("Mul", residuals, graph.constant(1 / member.tail.scale.numpy()))
    logs = graph.add("Log", graph.add("Add", scaled, graph.constant(1.0)))
    return graph.add("Mul", logs, graph.constant(member.tail.shape.numpy()))


def _loud(graph: _Graph, residuals: str, evidence: str) -> str:
    """What detector.shared divides by its sum."""
    beyond = graph.add("Relu", graph.add("Sub", evidence, graph.constant(BY_CHANCE)))
    remainder = graph.add("Add", graph.add("Mul", evidence, graph.constant(REMAINDER)), graph.constant(TINY))
    root = graph.add("Sqrt", graph.add("Sqrt", graph.add("Add", residuals, graph.constant(TINY))))
    return graph.add("Mul", graph.add("Add", beyond, remainder), root)


def _residuals(graph: _Graph, member: Member, rows: str) -> str:
    """Member.residuals."""
    value = rows
    for layer in member.network.layers:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            value = graph.add("Gemm", value, graph.constant(weight), graph.constant(bias), transB=1)
        else:
            value = graph.add("Relu", value)
    residual = graph.add("Sub", rows, value)
    return graph.add("Mul", graph.add("Mul", residual, residual), graph.constant(1 / member.variance.numpy()))


def _calibrated(graph: _Graph, fitted: Calibration, raw: str) -> None:
    """Calibration.apply, in float64 up to the last cast."""
    double = graph.double
    floored = graph.add("Max", graph.add("Cast", raw, to=TensorProto.DOUBLE), double(scale.RAW_FLOOR))
    x = graph.add("Log", floored)
    u = _rarity(graph, fitted, x)
    common = graph.add("Mul", graph.add("Min", u, double(scale.RARE_FROM)), double(scale.COMMON_SLOPE))
    past = graph.add("Max", graph.add("Sub", u, double(scale.RARE_FROM)), double(0.0))
    rare = graph.add("Min", past, double(scale.TAIL_FROM - scale.RARE_FROM))
    far = graph.add("Max", graph.add("Sub", u, double(scale.TAIL_FROM)), double(0.0))
    root = graph.add("Sqrt", graph.add("Add", graph.add("Mul", far, double(scale.TAIL_RATE)), double(1.0)))
    rest = graph.add("Div", double(scale.TAIL_REST), root)
    gain = graph.add("Sub", double(scale.TAIL_REST), rest)
    score = graph.add("Add", graph.add("Add", common, graph.add("Mul", rare, double(scale.RARE_SLOPE))), gain)
    graph.add("Cast", score, to=TensorProto.FLOAT, output="score")


def _rarity(graph: _Graph, fitted: Calibration, x: str) -> str:
    """Calibration.rarity_of: a sum of hinges, one per knot, plus the hyperbola below the first."""
    double = graph.double
    knots, rarity = np.asarray(fitted.knots), np.asarray(fitted.rarity)
    slopes = np.r_[np.diff(rarity) / np.diff(knots), fitted.last_slope]
    column = graph.add("Unsqueeze", x, graph.constant([1], np.int64))
    hinges = graph.add("Max", graph.add("Sub", column, double(knots)), double(0.0))
    climbed = graph.add("MatMul", hinges, double(np.diff(slopes, prepend=0.0)))
    below = graph.add("Max", graph.add("Sub", double(knots[0]), x), double(0.0))
    fall = graph.add("Add", graph.add("Mul", below, double(fitted.first_rate)), double(1.0))
    start = graph.add("Div", double(rarity[0]), fall)
    return graph.add("Add", start, climbed)


def verify(model: onnx.ModelProto, detector: Detector, calibration: Calibration, x: FloatArray) -> float:
    """Largest difference between the graph and torch on rows `x` of full width; raises ArtifactCorrupt."""
    import onnxruntime  # 0.5 s that fitting alone does not need

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores, shares = session.run(("score", "contributions"), {"features": np.ascontiguousarray(x[:, detector.kept])})
    expected = detector.contributions(x)[:, detector.kept]
    worst = max(
        float(np.abs(scores - calibration.apply(detector.score(x))).max()), float(np.abs(shares - expected).max())
    )
    if not worst <= TOLERANCE:
        raise ArtifactCorrupt("exported graph", f"differs from torch by {worst:.2g}, {TOLERANCE:g} is allowed")
    return worst
