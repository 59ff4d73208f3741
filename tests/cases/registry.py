"""Versions in the real registry that nobody trained."""

from pathlib import Path

import mlflow

from feature_repo.settings import Settings


def publish(settings: Settings, file: Path, tags: dict[str, str]) -> str:
    """A version whose artefact is `file`, whatever it is; returns its number."""
    mlflow.set_tracking_uri(settings.mlflow_url)
    client = mlflow.MlflowClient(settings.mlflow_url)
    if not client.search_registered_models(f"name = '{settings.model_name}'"):
        client.create_registered_model(settings.model_name)
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(file), "model")
        source = mlflow.get_artifact_uri("model")
    return str(client.create_model_version(settings.model_name, source, run.info.run_id, tags=tags).version)
