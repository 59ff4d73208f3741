"""Versions of the model line as the registry knows them, and the aliases that say which one serves."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import ArtifactCorrupt, BadConfiguration
from feature_repo.settings import Settings
from serving import artifact
from serving.artifact import Artifact
from serving.source import CHALLENGER, CHAMPION, FILE_NAME, SHA256_TAG, MlflowSource, Registered
from training.registration import FEATURE_SET_TAG, RECIPE_TAG, mlflow_client

PREVIOUS = "previous"
LATEST = "latest"  # not an alias of ours: the highest version number
SHOWN_METRICS = {"AP": "held_out_average_precision", "AUC": "held_out_auc", "CP@100": "held_out_card_precision_100"}


@dataclass(frozen=True)
class Version:
    """One registered version. `metrics` are those of its training run."""

    version: str
    aliases: tuple[str, ...]
    recipe: str
    feature_set_id: str
    artifact_sha256: str
    run_id: str
    created_at_ms: int
    metrics: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"aliases": list(self.aliases)}


class Versions:
    """The registered model of the settings. Every method may raise DependencyDown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.model_name
        self._source = MlflowSource(settings.mlflow_url, settings.model_name)

    def all(self) -> list[Version]:
        """Newest first; empty where nothing was ever registered."""
        with self._client() as client:
            aliases = self._aliases(client)
            found = client.search_model_versions(f"name = '{self._name}'")
            versions = [self._version(client, made, aliases) for made in found]
        return sorted(versions, key=lambda version: int(version.version), reverse=True)

    def aliases(self) -> dict[str, str]:
        """Alias -> version."""
        with self._client() as client:
            return self._aliases(client)

    def point(self, alias: str, version: str) -> None:
        with self._client() as client:
            client.set_registered_model_alias(self._name, alias, version)

    def clear(self, alias: str) -> None:
        """The alias names nothing any more."""
        with self._client() as client:
            client.delete_registered_model_alias(self._name, alias)

    def resolve(self, wanted: str) -> str:
        """A version number, `latest` or an alias as a version number. Raises BadConfiguration."""
        versions = {version.version: version for version in self.all()}
        if not versions:
            raise BadConfiguration(f"no version of {self._name} is registered", remedy="vigil train")
        if wanted == LATEST:
            return max(versions, key=int)
        for version in versions.values():
            if wanted == version.version or wanted in version.aliases:
                return version.version
        known = sorted({*versions, *(alias for version in versions.values() for alias in version.aliases)})
        raise BadConfiguration(f"{self._name} has no version {wanted!r}; there are {', '.join(known)} and latest")

    def run_of(self, version: str) -> str:
        """The run a version came from; empty where it names none."""
        with self._client() as client:
            return str(client.get_model_version(self._name, version).run_id or "")

    def load(self, version: str) -> Artifact:
        """Download and check. Raises ArtifactCorrupt or FeatureSetMismatch."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / FILE_NAME
            return artifact.load(file, self.fetch(version, file), version)

    def fetch(self, version: str, to: Path) -> str:
        """Write the artefact, unchecked, to the file `to`; returns the registered sha256. Raises ArtifactCorrupt."""
        with self._client() as client:
            tags = dict(client.get_model_version(self._name, version).tags)
        sha256 = tags.get(SHA256_TAG, "")
        if not sha256:
            raise ArtifactCorrupt(f"version {version}", "the registry holds no sha256 for it", check="sha256")
        self._source.fetch(Registered(version, sha256), to)
        return sha256

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with mlflow_client(self._settings) as mlflow:
            yield mlflow.MlflowClient()

    def _aliases(self, client: Any) -> dict[str, str]:
        found = client.search_registered_models(f"name = '{self._name}'")
        return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}

    def _version(self, client: Any, made: Any, aliases: dict[str, str]) -> Version:
        return Version(
            version=str(made.version),
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == str(made.version))),
            recipe=made.tags.get(RECIPE_TAG, ""),
            feature_set_id=made.tags.get(FEATURE_SET_TAG, ""),
            artifact_sha256=made.tags.get(SHA256_TAG, ""),
            run_id=made.run_id or "",
            created_at_ms=int(made.creation_timestamp),
            metrics=dict(client.get_run(made.run_id).data.metrics) if made.run_id else {},
        )


__all__ = ["CHALLENGER", "CHAMPION", "LATEST", "PREVIOUS", "Version", "Versions"]
