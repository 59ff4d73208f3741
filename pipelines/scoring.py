"""Offline scores: a window of a data set through a registered version, one row per transaction."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.evidence import evidence
from feature_repo.features import REASONS
from feature_repo.settings import Settings
from pipelines.versions import Versions
from serving import scorer
from serving.artifact import Artifact
from serving.wire import NO_REASON, SCORED
from training.data import TrainingSet, load_training_set, load_window

EVIDENCE = pa.struct(
    [
        pa.field("reason", pa.string()),
        pa.field("measure", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("usual", pa.float64()),  # null where there is nothing to compare with
        pa.field("unit", pa.string()),
        pa.field("direction", pa.string()),  # above, below or new
    ]
)
# Null score and verdict: the stream would not have scored that payment either (a repeat, another currency).
SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("anomaly_score", pa.float32()),
        pa.field("is_anomaly", pa.bool_()),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("evidence", pa.list_(EVIDENCE), nullable=False),  # of anomalies alone
    ]
)


def score_window(settings: Settings, data: str, model: str, first: date, last: date, out: Path) -> dict[str, Any]:
    """Write SCHEMA to `out`; returns counts. `model` is a version, `latest` or an alias.

    Every transaction id of the window has one row, in the order of event time. Raises BadConfiguration,
    ArtifactCorrupt, FeatureSetMismatch, DependencyDown.
    """
    versions = Versions(settings)
    version = versions.resolve(model)
    artifact = versions.load(version)
    window = load_window(settings, data, first, last).sort_by(
        [("event_time", "ascending"), ("transaction_id", "ascending")]
    )
    rows = load_training_set(settings, data, first, last)
    scored = score_rows(artifact, rows)
    table = _table(window, rows, scored, artifact)
    pq.write_table(table, out, compression="zstd")
    return {
        "transactions": len(table),
        "scored": len(scored),
        "unscored": len(table) - len(scored),
        "anomalies": int((scored["score"] >= np.float32(artifact.manifest.threshold)).sum()),
        "model_version": version,
        "out": str(out),
    }


def score_rows(artifact: Artifact, rows: TrainingSet) -> npt.NDArray[np.void]:
    """SCORED[n] of a window's vectors, columns chosen by name."""
    columns = [rows.columns.index(name) for name in artifact.manifest.columns]
    return scorer.score(artifact, rows.x[:, columns]) if len(rows) else np.empty(0, SCORED)


def _table(window: pa.Table, rows: TrainingSet, scored: npt.NDArray[np.void], artifact: Artifact) -> pa.Table:
    place = pc.index_in(window["transaction_id"].combine_chunks(), value_set=rows.transaction_id)
    anomaly = scored["score"] >= np.float32(artifact.manifest.threshold)
    reasons = pc.fill_null(_reasons(scored["reasons"]).take(place), pa.scalar([], pa.list_(pa.string())))
    columns = [
        window["transaction_id"],
        window["user_id"],
        window["event_time"],
        pa.array(np.ascontiguousarray(scored["score"])).take(place),
        pa.array(anomaly).take(place),
        reasons,
        pa.array([artifact.version]).take(pa.array(np.zeros(len(window), np.int8))),
        pc.fill_null(_evidence(rows, scored, anomaly).take(place), pa.scalar([], pa.list_(EVIDENCE))),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _reasons(codes: npt.NDArray[np.uint8]) -> pa.ListArray:
    """uint8[n, 4] of codes, NO_REASON behind the last, as lists of texts."""
    given = codes != NO_REASON
    texts = pa.array([str(reason) for reason in REASONS]).take(pa.array(codes[given]))
    return _lists(given.sum(axis=1), texts)


def _evidence(rows: TrainingSet, scored: npt.NDArray[np.void], anomaly: npt.NDArray[np.bool_]) -> pa.ListArray:
    """What the anomalies' reasons rest on, an empty list for every other row."""
    found: list[dict[str, Any]] = []
    counts = np.zeros(len(scored), np.int32)
    for place in np.flatnonzero(anomaly):
        reasons = [str(REASONS[code]) for code in scored["reasons"][place] if code != NO_REASON]
        shown = evidence(reasons, dict(zip(rows.columns, rows.x[place].tolist(), strict=True)))
        found += [item.as_json() for item in shown]
        counts[place] = len(shown)
    return _lists(counts, pa.array(found, EVIDENCE))


def _lists(counts: npt.NDArray[np.integer[Any]], values: pa.Array) -> pa.ListArray:
    """`values` cut into lists of these lengths."""
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)], pa.int32()), values)
