"""Decision trees as one ONNX operator that answers with a sum and with what each column added to it.

A column's part is what the rows' expected value changed by at every split on that column along the path,
summed over the trees (Saabas 2014, "Interpreting random forests"): parts and the expected value at the
roots add up to the answer exactly. A leaf carries its path's parts as further targets, so both come out
of one walk down the trees.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from training.graph import TREES_DOMAIN, Graph

FloatArray = npt.NDArray[np.float32]

LEAF = -1
_NODES = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
_TARGETS = ("treeids", "nodeids", "ids", "weights")


@dataclass(frozen=True)
class Tree:
    """One binary tree; children are positions, LEAF where there are none. Rows go left where x <= threshold."""

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]  # column asked at a split
    threshold: npt.NDArray[np.float64]
    count: npt.NDArray[np.float64]  # training rows that came here
    value: npt.NDArray[np.float64]  # answer of a leaf; what stands at a split is not read

    def asks(self, column: int) -> npt.NDArray[np.bool_]:
        """Which nodes are splits on that column."""
        return (self.left != LEAF) & (self.feature == column)

    def expected(self) -> npt.NDArray[np.float64]:
        """Mean answer of the training rows that came to each node. Children stand behind their parents."""
        mean = self.value.copy()
        for node in range(len(mean) - 1, -1, -1):
            if self.left[node] != LEAF:
                below = [self.left[node], self.right[node]]
                mean[node] = np.average(mean[below], weights=self.count[below])
        return mean

    def parts(self) -> dict[int, dict[int, float]]:
        """By leaf: what each column on its path added to the expected value."""
        mean = self.expected()
        paths: dict[int, dict[int, float]] = {0: {}}
        for node in range(len(mean)):
            if self.left[node] == LEAF:
                continue
            path, column = paths.pop(node), int(self.feature[node])
            for child in (int(self.left[node]), int(self.right[node])):
                paths[child] = {**path, column: path.get(column, 0.0) + mean[child] - mean[node]}
        return paths


def of_boosting(booster: Any, weight: float) -> list[Tree]:
    """The trees of a fitted HistGradientBoostingClassifier of two classes; their answers times `weight`."""
    trees = []
    for (predictor,) in booster._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        left, right = (np.where(leaf, LEAF, nodes[side].astype(np.int64)) for side in ("left", "right"))
        feature, count = nodes["feature_idx"].astype(np.int64), nodes["count"].astype(np.float64)
        trees.append(Tree(left, right, feature, nodes["num_threshold"], count, nodes["value"] * weight))
    return trees


def of_isolation(forest: Any, path_length: Any) -> list[Tree]:
    """The trees of a fitted IsolationForest; a leaf answers with minus the path length it stands for.

    `path_length` of n rows: how many further cuts would part them on average.
    """
    trees = []
    for estimator in forest.estimators_:
        tree = estimator.tree_
        depth = np.zeros(tree.node_count)
        for node in range(tree.node_count):
            if tree.children_left[node] != LEAF:
                depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1
        count = tree.n_node_samples.astype(np.float64)
        value = -(depth + path_length(tree.n_node_samples))
        trees.append(Tree(tree.children_left, tree.children_right, tree.feature, tree.threshold, count, value))
    return trees


@dataclass(frozen=True)
class Ensemble:
    """Trees over rows of `width` columns."""

    trees: tuple[Tree, ...]
    width: int

    def answers(self, x: FloatArray) -> FloatArray:
        """float32[n, width] -> [n, width + 1]: each column's part, and last the sum of the trees' answers."""
        result: FloatArray = self._session.run(None, {"features": np.ascontiguousarray(x, dtype=np.float32)})[0]
        return result

    @cached_property
    def _session(self) -> Any:
        import onnxruntime  # half a second that only trees need

        graph = Graph()
        graph.add("Identity", self.into(graph, "features"), output="answers")
        model = graph.finished(self.width, {"answers": ["n", self.width + 1]})
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def into(self, graph: Graph, rows: str) -> str:
        """Add the operator over `rows`; returns its output, which is that of `answers`."""
        nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in _NODES}
        targets: dict[str, list[Any]] = {f"target_{name}": [] for name in _TARGETS}
        for number, tree in enumerate(self.trees):
            leaf = tree.left == LEAF
            nodes["nodes_treeids"] += [number] * len(leaf)
            nodes["nodes_nodeids"] += range(len(leaf))
            nodes["nodes_featureids"] += np.where(leaf, 0, tree.feature).tolist()
            nodes["nodes_values"] += np.where(leaf, 0, _rounded_down(tree.threshold)).tolist()
            nodes["nodes_modes"] += ["LEAF" if end else "BRANCH_LEQ" for end in leaf]
            nodes["nodes_truenodeids"] += np.where(leaf, 0, tree.left).tolist()
            nodes["nodes_falsenodeids"] += np.where(leaf, 0, tree.right).tolist()
            for node, parts in tree.parts().items():
                answers = {**parts, self.width: float(tree.value[node])}
                targets["target_treeids"] += [number] * len(answers)
                targets["target_nodeids"] += [node] * len(answers)
                targets["target_ids"] += list(answers)
                targets["target_weights"] += list(answers.values())
        attributes: dict[str, Any] = nodes | targets | {"n_targets": self.width + 1}
        return graph.add("TreeEnsembleRegressor", rows, domain=TREES_DOMAIN, **attributes)


def _rounded_down(threshold: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest float32 not above each: a float32 value is at or below both or neither."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)
