"""Another alert budget for a version: the same weights with another threshold, as a version of its own.

The threshold lives in the artefact, and a decision row names the version that made it. A threshold changed in
place would leave rows that cannot be decided again; a new version keeps both true.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines.versions import Versions
from serving import artifact
from serving.artifact import Manifest
from serving.source import FILE_NAME, SHA256_TAG
from training.registration import FEATURE_SET_TAG, RECIPE_TAG, mlflow_client

WEIGHTS_TAG = "weights_of"  # the version the weights came from


def with_budget(settings: Settings, versions: Versions, version: str, budget: float) -> str:
    """Register `version` anew with the threshold of this alert budget (share of payments); returns the version.

    Raises BadConfiguration where the artefact does not say which score that is, ArtifactCorrupt, DependencyDown.
    """
    old = versions.load(version)
    manifest = replace(old.manifest, threshold=threshold_of(old.manifest, budget), alert_budget=budget)
    with tempfile.TemporaryDirectory() as folder, mlflow_client(settings) as mlflow:
        file = Path(folder) / FILE_NAME
        versions.fetch(version, file)
        sha256 = artifact.save(file, onnx.load(str(file)), manifest)
        artifact.load(file, sha256)
        mlflow.set_experiment(settings.model_name)
        with mlflow.start_run(run_name=f"version {version} at a budget of {budget:g}") as run:
            mlflow.log_params({"weights_of": version, "alert_budget": budget, "threshold": manifest.threshold})
            mlflow.log_metrics({name: value for name, value in manifest.metrics.items() if np.isfinite(value)})
            mlflow.log_artifact(str(file), "model")
            source = mlflow.get_artifact_uri("model")
        tags = {
            SHA256_TAG: sha256,
            FEATURE_SET_TAG: manifest.feature_set_id,
            RECIPE_TAG: manifest.recipe,
            WEIGHTS_TAG: version,
        }
        made = mlflow.MlflowClient().create_model_version(settings.model_name, source, run.info.run_id, tags=tags)
        return str(made.version)


def threshold_of(manifest: Manifest, budget: float) -> float:
    """The score that this share of the calibration window's payments reaches, between those noted by its rarity.

    Raises BadConfiguration beyond what was noted: a rarer score was not observed.
    """
    if not manifest.budget_thresholds:
        raise BadConfiguration(
            "this version does not say which score belongs to which alert budget", remedy="train a new version"
        )
    budgets, thresholds = np.asarray(manifest.budget_thresholds, np.float64).T
    if not budgets[0] <= budget <= budgets[-1]:
        raise BadConfiguration(f"the budget must lie between {budgets[0]:g} and {budgets[-1]:g} of all payments")
    return float(np.interp(np.log(budget), np.log(budgets), thresholds))
