"""The model artefact: one ONNX file that holds normalisation, network, calibration and its own manifest.

Graph input `features` float32[n, F]: raw feature values, columns in manifest order. Outputs `score`
float32[n] in [0, 1] and `contributions` float32[n, F], rows summing to 1. The manifest is JSON in the
ONNX metadata under `vigil_manifest`. Nothing is unpickled, and no weight lives outside the file.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from feature_repo import features
from feature_repo.errors import ArtifactCorrupt, FeatureInvalid, FeatureSetMismatch, ModelOutputInvalid
from serving.reference import Reference

FloatArray = npt.NDArray[np.float32]

MANIFEST_KEY = "vigil_manifest"
FORMAT = 1  # of the manifest; moves when a reader of today could not use it
GOLDEN_TOLERANCE = 1e-5  # scores of one artefact may differ by this between processors (DESIGN.md §2)
CONTRIBUTION_TOLERANCE = 1e-3  # how far a row of contributions may be from summing to 1
SLICE_ROWS = 1_024  # rows per session run: the working set stays in the cache


@dataclass(frozen=True)
class Manifest:
    """What a model is, beside its graph. Times are ISO 8601, UTC; train_from and train_to are days, inclusive."""

    model_name: str
    recipe: str
    columns: tuple[str, ...]  # features consumed, in the order of the graph's input
    feature_set_id: str
    threshold: float  # score at or above which a payment is an anomaly
    alert_budget: float  # share of all payments the threshold was set for
    train_from: str
    train_to: str
    labels_as_of: str
    data_sha256: str
    dropped_columns: tuple[str, ...]  # not consumed: constant in training, or of no part in a simple rule
    metrics: dict[str, float] = field(default_factory=dict)
    golden_features: list[list[float]] = field(default_factory=list)  # rows of raw features
    golden_scores: list[float] = field(default_factory=list)  # what they scored when the model was made
    created_at: str = ""
    # (alert budget, score that this share of the calibration window's payments reaches), budgets ascending
    budget_thresholds: tuple[tuple[float, float], ...] = ()
    data_name: str = ""  # data set of this installation it was trained on; empty where nobody said
    reference: Reference | None = None  # what drift is measured against
    labels_received: str = ""  # when the newest label of table `labels` that training saw had come in
    payments_arrived: str = ""  # when the newest payment of the training window had arrived

    @property
    def first_day(self) -> date:
        """Of the training window."""
        return date.fromisoformat(self.train_from[:10])

    @property
    def last_day(self) -> date:
        """Of the training window, inclusive."""
        return date.fromisoformat(self.train_to[:10])

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises ValueError or KeyError where it is not a manifest of this format."""
        values: dict[str, Any] = json.loads(text)
        if values.get("format") != FORMAT:
            raise ValueError(f"manifest format {values.get('format')!r}, this reader knows {FORMAT}")
        values = {
            "budget_thresholds": (),
            "data_name": "",
            "reference": None,
            "labels_received": "",
            "payments_arrived": "",
            **values,
        }  # versions made before they existed
        chosen = {f.name: values[f.name] for f in fields(cls)}
        chosen["columns"] = tuple(chosen["columns"])
        chosen["dropped_columns"] = tuple(chosen["dropped_columns"])
        chosen["budget_thresholds"] = tuple((float(b), float(t)) for b, t in chosen["budget_thresholds"])
        chosen["reference"] = Reference.from_json(chosen["reference"]) if chosen["reference"] else None
        return cls(**chosen)


@dataclass(frozen=True)
class Artifact:
    """A checked, loaded model. `version` names it in errors."""

    version: str
    manifest: Manifest
    sha256: str
    session: onnxruntime.InferenceSession

    def run(self, X: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Raw features [n, F] in manifest order -> (scores [n], contributions [n, F]).

        Raises FeatureSetMismatch for another width, FeatureInvalid for the first value that is not
        finite, ModelOutputInvalid where the graph answers with the wrong shape or with no number.
        """
        inputs = np.ascontiguousarray(X, dtype=np.float32)
        width = len(self.manifest.columns)
        if inputs.ndim != 2 or inputs.shape[1] != width:
            raise FeatureSetMismatch(f"{width} columns", f"shape {inputs.shape}")
        finite = np.isfinite(inputs)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise FeatureInvalid(int(row), self.manifest.columns[column])
        scores = np.empty(len(inputs), np.float32)
        contributions = np.empty((len(inputs), width), np.float32)
        for start in range(0, len(inputs), SLICE_ROWS):
            part = slice(start, start + SLICE_ROWS)
            outputs = self._outputs(inputs[part])
            self._check_output(inputs[part], *outputs)
            scores[part], contributions[part] = outputs
        return scores, contributions

    def _outputs(self, inputs: FloatArray) -> Any:
        try:
            return self.session.run(("score", "contributions"), {"features": inputs})
        except Exception as error:  # onnxruntime's classes share no base of their own
            raise ModelOutputInvalid(self.version, f"no answer ({type(error).__name__})") from error

    def _check_output(self, inputs: FloatArray, scores: Any, contributions: Any) -> None:
        if scores.shape != (len(inputs),) or contributions.shape != inputs.shape:
            raise ModelOutputInvalid(self.version, f"shapes {scores.shape} and {contributions.shape}")
        if not (np.all(scores >= 0) and np.all(scores <= 1)):  # NaN fails both comparisons
            raise ModelOutputInvalid(self.version, "a score outside [0, 1]")
        if not np.all(np.abs(contributions.sum(axis=1) - 1) <= CONTRIBUTION_TOLERANCE):
            raise ModelOutputInvalid(self.version, "contributions that do not sum to 1")


def save(path: Path, model: onnx.ModelProto, manifest: Manifest) -> str:
    """Write `model` with `manifest` inside as one file; returns the file's sha256."""
    model = stamped(model, manifest)
    content = model.SerializeToString()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def stamped(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """A copy of `model` whose metadata holds `manifest` (and only one)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del copy.metadata_props[:]
    for key, value in [*kept, (MANIFEST_KEY, manifest.to_json())]:
        copy.metadata_props.add(key=key, value=value)
    return copy


def load(path: Path, expected_sha256: str | None = None, version: str = "") -> Artifact:
    """Read and check an artefact: hash, manifest, columns, weights, then its golden rows.

    Raises ArtifactCorrupt naming the failed check, or FeatureSetMismatch where the model consumes
    features that this build does not compute (or computes with another meaning).
    """
    name = f"version {version}" if version else path.name
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise ArtifactCorrupt(name, f"sha256 is {sha256}, registered was {expected_sha256}", check="sha256")
    model = _parse(name, content)
    manifest = _read_manifest(name, model)
    check_columns(manifest)
    _check_weights(name, model)
    artifact = Artifact(version or path.name, manifest, sha256, _open(name, content))
    _check_signature(name, artifact)
    _check_golden_rows(name, artifact)
    return artifact


def check_columns(manifest: Manifest) -> None:
    """Raises FeatureSetMismatch where the running kernel cannot compute what the model consumes."""
    unknown = [column for column in manifest.columns if column not in features.NAMES]
    if unknown:
        raise FeatureSetMismatch(manifest.feature_set_id, f"a kernel without {', '.join(unknown)}")
    computed = features.feature_set_id(manifest.columns)
    if computed != manifest.feature_set_id:
        raise FeatureSetMismatch(manifest.feature_set_id, computed)


def _parse(name: str, content: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError is not one public class across its backends
        raise ArtifactCorrupt(name, f"not an ONNX file ({type(error).__name__})", check="onnx") from error


def _read_manifest(name: str, model: onnx.ModelProto) -> Manifest:
    texts = [entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    if len(texts) != 1:
        raise ArtifactCorrupt(name, f"{len(texts)} manifests, one is needed", check="manifest")
    try:
        manifest = Manifest.from_json(texts[0])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactCorrupt(name, f"manifest unreadable: {error!r}", check="manifest") from error
    if not manifest.columns or len(set(manifest.columns)) != len(manifest.columns):
        raise ArtifactCorrupt(name, "manifest names no columns, or one twice", check="manifest")
    if not isinstance(manifest.threshold, float) or not 0 <= manifest.threshold <= 1:
        raise ArtifactCorrupt(name, f"threshold {manifest.threshold} is outside [0, 1]", check="manifest")
    return manifest


def _check_weights(name: str, model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ArtifactCorrupt(name, f"weight {tensor.name} lives outside the file", check="weights")
        if not np.all(np.isfinite(onnx.numpy_helper.to_array(tensor))):
            raise ArtifactCorrupt(name, f"weight {tensor.name} is not finite", check="weights")
    for node in model.graph.node:  # trees keep their numbers in attributes
        for attribute in node.attribute:
            if not np.all(np.isfinite(attribute.floats)):
                raise ArtifactCorrupt(name, f"{attribute.name} of {node.op_type} is not finite", check="weights")


def _open(name: str, content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the service scales by workers; two threads per row batch only fight
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated classes for a graph it cannot run
        raise ArtifactCorrupt(name, f"the graph does not load: {error}", check="graph") from error


def _check_signature(name: str, artifact: Artifact) -> None:
    inputs = [(node.name, node.type, node.shape[1:]) for node in artifact.session.get_inputs()]
    width = len(artifact.manifest.columns)
    if inputs != [("features", "tensor(float)", [width])]:
        raise ArtifactCorrupt(name, f"graph inputs are {inputs}, the manifest has {width} columns", check="graph")
    outputs = {node.name: node.type for node in artifact.session.get_outputs()}
    if {"score", "contributions"} - outputs.keys():
        raise ArtifactCorrupt(name, f"graph outputs are {sorted(outputs)}", check="graph")


def _check_golden_rows(name: str, artifact: Artifact) -> None:
    manifest = artifact.manifest
    if not manifest.golden_scores or len(manifest.golden_scores) != len(manifest.golden_features):
        raise ArtifactCorrupt(name, "no golden rows, or not one score for each", check="golden_rows")
    try:
        scores, _ = artifact.run(np.asarray(manifest.golden_features, np.float32))
    except (ValueError, FeatureInvalid, FeatureSetMismatch, ModelOutputInvalid) as error:
        raise ArtifactCorrupt(name, f"golden rows do not score: {error}", check="golden_rows") from error
    worst = float(np.max(np.abs(scores - np.asarray(manifest.golden_scores, np.float32))))
    if not worst <= GOLDEN_TOLERANCE:
        raise ArtifactCorrupt(
            name, f"golden rows differ by {worst:.2g}, {GOLDEN_TOLERANCE:g} is allowed", check="golden_rows"
        )
