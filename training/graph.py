"""Building an ONNX graph node by node.

The graph is the artefact's contract (serving/artifact.py); every model writes itself into one, each step
beside the torch or numpy line it must equal.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # old enough for every onnxruntime that serves it
TREES_DOMAIN, TREES_OPSET = "ai.onnx.ml", 3
IR_VERSION = 8


class Graph:
    """Nodes and constants in the order they are added; names count up. The input is named `features`."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def double(self, value: npt.ArrayLike) -> str:
        return self.constant(value, np.float64)

    def axis(self, number: int) -> str:
        return self.constant([number], np.int64)

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def total(self, rows: str, keepdims: bool = False) -> str:
        """Sum over the columns."""
        return self.add("ReduceSum", rows, self.axis(1), keepdims=int(keepdims))

    def shares(self, parts: str) -> str:
        """Each row divided by its sum."""
        return self.add("Div", parts, self.total(parts, keepdims=True))

    def columns(self, rows: str, start: int, end: int) -> str:
        bounds = (self.constant([place], np.int64) for place in (start, end, 1))
        return self.add("Slice", rows, *bounds)

    def column(self, rows: str, place: int) -> str:
        """One column as a vector [n]."""
        return self.add("Squeeze", self.columns(rows, place, place + 1), self.axis(1))

    def single(self, value: str, output: str = "") -> str:
        return self.add("Cast", value, to=TensorProto.FLOAT, output=output)

    def model(self, width: int) -> onnx.ModelProto:
        """The checked model over `features` float32[n, width]; `score` and `contributions` have been added."""
        return self.finished(width, {"score": ["n"], "contributions": ["n", width]})

    def finished(self, width: int, outputs: dict[str, list[Any]]) -> onnx.ModelProto:
        """The checked model with these float32 outputs, by name and shape."""
        body = helper.make_graph(
            self.nodes,
            "vigil",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.constants,
        )
        domains = {node.domain for node in self.nodes}
        imports = [helper.make_opsetid("", OPSET)]
        imports += [helper.make_opsetid(TREES_DOMAIN, TREES_OPSET)] if TREES_DOMAIN in domains else []
        model = helper.make_model(body, opset_imports=imports, ir_version=IR_VERSION, producer_name="vigil")
        onnx.checker.check_model(model)
        return model
