"""A finished model into MLflow: parameters, metrics, report, artefact, and a version under one name."""

import io
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from feature_repo.errors import DependencyDown
from feature_repo.settings import Settings
from serving import artifact
from serving.artifact import Manifest
from serving.source import FILE_NAME, SHA256_TAG
from training import report as reporting
from training.page import html
from training.recipes import Recipe

FEATURE_SET_TAG = "feature_set_id"
RECIPE_TAG = "recipe"
FEATURE_SERVICE_TAG = "feast_feature_service"  # whose columns the run read
MAX_RETRIES = 2  # of a call, seconds in all; MLflow's own seven take five minutes to say that nobody listens
NEEDS = ("onnx", "onnxruntime", "numpy")  # what loading the artefact takes; given, or MLflow would try to find out


@contextmanager
def mlflow_client(settings: Settings) -> Iterator[Any]:
    """The mlflow module, pointed at the settings' server. Raises DependencyDown where it does not answer."""
    import mlflow  # seconds to import
    from mlflow import environment_variables
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    mlflow.set_tracking_uri(settings.mlflow_url)
    mlflow.set_registry_uri(settings.mlflow_url)
    switches: Any = environment_variables  # has no types
    # stdout is for what the command was asked for, and a bar for one file of 70 KB is noise.
    switches.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    switches.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    switches.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(MAX_RETRIES)
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns of pip's version and of GPUs that are not there
    try:
        yield mlflow
    except RequestException as error:
        raise DependencyDown("MLflow", settings.mlflow_url, type(error).__name__) from error
    except MlflowException as error:
        if isinstance(error.__cause__, RequestException) or "API request to" in str(error):
            raise DependencyDown("MLflow", settings.mlflow_url, str(error)) from error
        raise


@dataclass(frozen=True)
class Fitted:
    """A trained, calibrated and judged model that nobody has registered yet."""

    model: onnx.ModelProto
    manifest: Manifest
    report: dict[str, Any]
    recipe: Recipe


def register(settings: Settings, fitted: Fitted) -> str:
    """Log one run and register its model; returns the version.

    The artefact in the registry is read back and must be the very bytes that were checked here.
    """
    model, manifest, recipe = fitted.model, fitted.manifest, fitted.recipe
    with tempfile.TemporaryDirectory() as folder, mlflow_client(settings) as mlflow:
        file = Path(folder) / FILE_NAME
        sha256 = artifact.save(file, model, manifest)
        artifact.load(file, sha256)
        mlflow.set_experiment(settings.model_name)
        with mlflow.start_run(run_name=f"{recipe.name} {manifest.train_from} to {manifest.train_to}"):
            _log_run(mlflow, fitted, Path(folder))
            logged = _log_model(mlflow, model, manifest, settings.model_name)
        return _register(mlflow, settings.model_name, logged, manifest, sha256)


def _log_run(mlflow: Any, fitted: Fitted, folder: Path) -> None:
    manifest, recipe, report = fitted.manifest, fitted.recipe, fitted.report
    mlflow.log_params(asdict(recipe))
    mlflow.log_params(
        {
            "train_from": manifest.train_from,
            "train_to": manifest.train_to,
            "labels_as_of": manifest.labels_as_of,
            "data_sha256": manifest.data_sha256,
            "columns": len(manifest.columns),
            "dropped_columns": ",".join(manifest.dropped_columns) or "none",
        }
    )
    from feature_repo import definitions  # with Feast, seconds to import

    mlflow.set_tags(
        {
            FEATURE_SET_TAG: manifest.feature_set_id,
            RECIPE_TAG: recipe.name,
            FEATURE_SERVICE_TAG: definitions.SERVICE,
        }
    )
    mlflow.log_metrics({name: value for name, value in manifest.metrics.items() if np.isfinite(value)})
    text = folder / "report.json"
    text.write_text(json.dumps(report, indent=1))
    curves = folder / "curves.png"
    reporting.draw(report, f"{manifest.model_name}, recipe {recipe.name}", curves)
    page = folder / "report.html"
    page.write_text(html(report, manifest, curves.read_bytes()), encoding="utf-8")
    for file in (text, curves, page):
        mlflow.log_artifact(str(file))


def _log_model(mlflow: Any, model: onnx.ModelProto, manifest: Manifest, name: str) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    width = len(manifest.columns)
    number = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(number, (-1, width), "features")]),
        outputs=Schema([TensorSpec(number, (-1,), "score"), TensorSpec(number, (-1, width), "contributions")]),
    )
    return mlflow.onnx.log_model(
        artifact.stamped(model, manifest),
        name=name,
        signature=signature,
        input_example={"features": np.asarray(manifest.golden_features[:2], np.float32)},
        pip_requirements=[f"{package}=={installed(package)}" for package in NEEDS],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )


def _register(mlflow: Any, name: str, logged: Any, manifest: Manifest, sha256: str) -> str:
    stored = mlflow.MlflowClient().get_logged_model(logged.model_id).artifact_location
    with tempfile.TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(artifact_uri=f"{stored}/{FILE_NAME}", dst_path=folder)
        artifact.load(Path(local), sha256)
    tags = {SHA256_TAG: sha256, FEATURE_SET_TAG: manifest.feature_set_id, RECIPE_TAG: manifest.recipe}
    with redirect_stderr(io.StringIO()):  # it prints two lines of its own; what fails is raised
        return str(mlflow.register_model(logged.model_uri, name, tags=tags).version)
