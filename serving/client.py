"""The model service's client: binary matrices over one keep-alive connection.

Used by every Spark task, so it imports nothing heavier than numpy.
"""

import http.client
import json
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from feature_repo.errors import (
    BatchTooLarge,
    DependencyDown,
    FeatureInvalid,
    FeatureSetMismatch,
    ModelLoading,
    ModelOutputInvalid,
    ModelVersionMismatch,
    VigilError,
)
from serving.wire import SCORED

BINARY = "application/octet-stream"
READ_BYTES = 1 << 18
MAX_ANSWER_BYTES = 1 << 26  # 2.7 million records: far above any request the service accepts

# What a broken keep-alive connection looks like from this side before a byte of the answer arrived.
BROKEN = (http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest)


@dataclass(frozen=True)
class LoadedModel:
    """One version a worker holds, with what a caller needs to feed it and to decide on its scores."""

    version: str
    feature_set_id: str
    columns: tuple[str, ...]
    threshold: float
    alert_budget: float
    artifact_sha256: str


@dataclass(frozen=True)
class Models:
    """What the service answered: the versions the aliases named last, and every version loaded."""

    champion: str
    challenger: str | None
    loaded: tuple[LoadedModel, ...]

    def get(self, version: str) -> LoadedModel:
        """The loaded version of that name. Raises ModelVersionMismatch."""
        for model in self.loaded:
            if model.version == version:
                return model
        raise ModelVersionMismatch(version, [model.version for model in self.loaded])


class ModelClient:
    """One connection to one service; for one thread. Opens at the first call, again after a break.

    Every call has one deadline of `timeout_s` seconds in all. Raises DependencyDown where the service does
    not answer in time or what answers is not it, and the class of `feature_repo.errors` for each refusal.
    """

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        parts = urlsplit(url)
        self._url = url
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80)

    def __enter__(self) -> "ModelClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def models(self) -> Models:
        """Versions loaded by the worker that answered. Raises ModelLoading while there is none."""
        _, body = self._call("GET", "/models", None, {})
        try:
            answer = json.loads(body)
            loaded = tuple(LoadedModel(**{**model, "columns": tuple(model["columns"])}) for model in answer["loaded"])
            challenger = answer.get("challenger")  # a service from before there were any names none
            return Models(str(answer["champion"]), challenger and str(challenger), loaded)
        except (ValueError, TypeError, KeyError) as error:
            raise self._down(f"GET /models gave something else than models ({error})") from error

    def score(
        self, X: NDArray[np.float32], version: str, feature_set_id: str, within_s: float | None = None
    ) -> NDArray[np.void]:
        """SCORED[n] for the raw feature rows X float32[n, F], columns in the order of that version.

        `within_s` is a deadline of this call's own, instead of the client's.
        Raises ModelVersionMismatch (with what is loaded), FeatureSetMismatch, FeatureInvalid, BatchTooLarge.
        """
        if len(X) == 0:
            return np.empty(0, dtype=SCORED)
        matrix = np.ascontiguousarray(X, dtype="<f4")
        headers = {
            "Content-Type": BINARY,
            "X-Vigil-Model-Version": version,
            "X-Vigil-Feature-Set": feature_set_id,
        }
        answer_headers, body = self._call("POST", "/score", matrix.data.cast("B"), headers, within_s)
        answered = answer_headers.get("X-Vigil-Model-Version", "")
        if answered != version:
            raise ModelOutputInvalid(version, f"an answer of version {answered or 'unknown'}")
        if len(body) != len(matrix) * SCORED.itemsize:
            raise ModelOutputInvalid(version, f"{len(body)} bytes for {len(matrix)} rows")
        scored = np.frombuffer(body, dtype=SCORED)
        if not np.isfinite(scored["score"]).all():
            raise ModelOutputInvalid(version, "a score that is not finite")
        return scored

    def _call(
        self, method: str, path: str, body: memoryview | None, headers: dict[str, str], within_s: float | None = None
    ) -> tuple[http.client.HTTPMessage, bytearray]:
        """One request and its whole answer; asks again once where a kept connection turned out broken."""
        timeout_s = self._timeout_s if within_s is None else within_s
        deadline = time.monotonic() + timeout_s
        kept = self._connection.sock is not None
        try:
            try:
                return self._exchange(method, path, body, headers, deadline)
            except BROKEN:
                if not kept:
                    raise
                self.close()
                return self._exchange(method, path, body, headers, deadline)
        except VigilError:
            raise
        except TimeoutError as error:
            self.close()
            raise self._down(f"no answer within {timeout_s:.3g} s") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._down(str(error) or type(error).__name__) from error

    def _exchange(
        self, method: str, path: str, body: memoryview | None, headers: dict[str, str], deadline: float
    ) -> tuple[http.client.HTTPMessage, bytearray]:
        connection = self._connection
        if connection.sock is None:
            connection.timeout = _remaining(deadline)
            connection.connect()
        sock: socket.socket = connection.sock  # the answer may detach it from the connection, we still read
        sock.settimeout(_remaining(deadline))
        connection.request(method, self._prefix + path, body=body, headers=headers)
        sock.settimeout(_remaining(deadline))
        response = connection.getresponse()
        answer = bytearray()
        while True:
            sock.settimeout(_remaining(deadline))
            piece = response.read(READ_BYTES)
            if not piece:
                break
            answer += piece
            if len(answer) > MAX_ANSWER_BYTES:
                raise http.client.HTTPException(f"an answer over {MAX_ANSWER_BYTES} bytes")
        if response.status != 200:
            raise error_of(response.status, answer) or self._down(f"HTTP status {response.status}")
        return response.headers, answer

    def _down(self, cause: str) -> DependencyDown:
        return DependencyDown("model service", self._url, cause)


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def error_of(status: int, body: bytes | bytearray) -> VigilError | None:
    """The error class a problem+json answer stands for.

    None where the body is no problem of ours, or the service failed without saying at what: it is as good as away.
    """
    try:
        problem = json.loads(body)
        code, detail = str(problem["code"]), str(problem["detail"])
        kind = REFUSALS.get(code)
        if kind is not None:
            return kind(**{name: problem[name] for name in kind.evidence})
    except (ValueError, TypeError, KeyError):
        return None
    if status >= 500:
        return None
    error = VigilError(detail)
    error.code, error.status = code, status
    return error


REFUSALS: dict[str, type[VigilError]] = {
    kind.code: kind
    for kind in (
        BatchTooLarge,
        FeatureInvalid,
        FeatureSetMismatch,
        ModelLoading,
        ModelOutputInvalid,
        ModelVersionMismatch,
    )
}
