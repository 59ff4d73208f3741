"""Where models come from: the MLflow registry's REST interface.

MLflow's own client costs a worker 150 MB and 4 s of start-up (measured with 3.17); asking for an alias and
fetching one file does not need it. It is imported only where the artefact lies in a foreign object store.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx

from feature_repo.errors import ArtifactCorrupt, DependencyDown

CHAMPION = "champion"
CHALLENGER = "challenger"
FILE_NAME = "model.onnx"
SHA256_TAG = "artifact_sha256"

ASK_TIMEOUT_S = 5.0
FETCH_TIMEOUT_S = 60.0
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # no such model, no such alias


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `sha256` is what its tag says the artefact's hash is, empty without one."""

    version: str
    sha256: str


class Source(Protocol):
    """The registry as the serving worker sees it; both calls may block and raise DependencyDown."""

    def named(self, alias: str) -> Registered | None:
        """The version the alias names; None while the model or the alias does not exist."""

    def fetch(self, registered: Registered, to: Path) -> None:
        """Write the version's artefact to the file `to`. Raises ArtifactCorrupt where there is none."""


class MlflowSource:
    """One registered model of one MLflow server."""

    def __init__(self, url: str, model_name: str) -> None:
        self._url = url.rstrip("/")
        self._model_name = model_name
        # The registry is a server of ours: a proxy meant for the internet must not be asked for it.
        self._http = httpx.Client(trust_env=False, timeout=ASK_TIMEOUT_S)

    def named(self, alias: str) -> Registered | None:
        answer = self._ask("registered-models/alias", name=self._model_name, alias=alias)
        if answer is None:
            return None
        version = answer["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
        return Registered(version=str(version["version"]), sha256=tags.get(SHA256_TAG, ""))

    def fetch(self, registered: Registered, to: Path) -> None:
        answer = self._ask("model-versions/get-download-uri", name=self._model_name, version=registered.version)
        if answer is None:
            raise ArtifactCorrupt(f"version {registered.version}", "the registry names no artefact")
        uri = str(answer["artifact_uri"]).rstrip("/")
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts":
            self._fetch_proxied(f"{parts.path}/{FILE_NAME}", registered, to)
        else:
            self._fetch_foreign(f"{uri}/{FILE_NAME}", registered, to)

    def _fetch_proxied(self, path: str, registered: Registered, to: Path) -> None:
        url = f"{self._url}/api/2.0/mlflow-artifacts/artifacts{quote(path)}"
        try:
            with self._http.stream("GET", url, timeout=FETCH_TIMEOUT_S) as response:
                if response.status_code == 404:
                    raise ArtifactCorrupt(f"version {registered.version}", f"there is no {FILE_NAME}")
                response.raise_for_status()
                with to.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
        except httpx.HTTPError as error:
            raise self._down(error) from error

    def _fetch_foreign(self, uri: str, registered: Registered, to: Path) -> None:
        import mlflow

        mlflow.set_tracking_uri(self._url)
        try:
            local = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(to.parent / to.stem))
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise DependencyDown("artefact store", urlsplit(uri).scheme, str(error)) from error
        Path(local).replace(to)

    def _ask(self, path: str, **parameters: str) -> dict[str, Any] | None:
        """One GET of the registry; None where what is asked for does not exist."""
        try:
            response = self._http.get(f"{self._url}/api/2.0/mlflow/{path}", params=parameters)
            body: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._down(error) from error
        if response.is_success:
            return body
        if body.get("error_code") in UNKNOWN:
            return None
        raise DependencyDown("MLflow", self._url, f"HTTP status {response.status_code}")

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown("MLflow", self._url, str(error) or type(error).__name__)
