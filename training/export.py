"""A model and its calibration as one ONNX graph: raw features in, score and contributions out.

`verify` compares the graph with the model itself on real rows.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from feature_repo.errors import ArtifactCorrupt
from training import calibration as scale
from training.calibration import Calibration
from training.graph import Graph
from training.models import Model

FloatArray = npt.NDArray[np.float32]

TOLERANCE = 1e-5  # between this graph and the model, for scores and contributions


def to_onnx(model: Model, calibration: Calibration) -> onnx.ModelProto:
    """The graph over the columns the model kept, in their order."""
    graph = Graph()
    raw, contributions = model.into(graph)
    graph.add("Identity", contributions, output="contributions")
    _calibrated(graph, calibration, raw)
    return graph.model(len(model.kept))


def _calibrated(graph: Graph, fitted: Calibration, raw: str) -> None:
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
    graph.single(score, output="score")


def _rarity(graph: Graph, fitted: Calibration, x: str) -> str:
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


def verify(exported: onnx.ModelProto, model: Model, calibration: Calibration, x: FloatArray) -> float:
    """Largest difference between the graph and the model on rows `x` of full width; raises ArtifactCorrupt."""
    import onnxruntime  # 0.5 s that fitting alone does not need

    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = np.ascontiguousarray(x[:, model.kept])
    scores, shares = session.run(("score", "contributions"), {"features": inputs})
    expected = model.contributions(x)[:, model.kept]
    worst = max(float(np.abs(scores - calibration.apply(model.score(x))).max()), float(np.abs(shares - expected).max()))
    if not worst <= TOLERANCE:
        raise ArtifactCorrupt("exported graph", f"differs from the model by {worst:.2g}, {TOLERANCE:g} is allowed")
    return worst
