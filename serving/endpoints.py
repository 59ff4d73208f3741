"""The model service's HTTP interface: binary scores for the stream, one decision for a person's request."""

import json
import logging
import time
from typing import Any

import anyio.to_thread
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feature_repo.errors import BatchTooLarge, FeatureSetMismatch, ModelLoading, ParameterInvalid, VigilError
from feature_repo.problem import MEDIA_TYPE, encode, problem
from feature_repo.transaction import MAX_PAYLOAD_BYTES
from serving import scorer
from serving.artifact import Artifact
from serving.explain import Question, explained
from serving.gate import BINARY, JSON
from serving.registry import Refusal
from serving.worker import Worker

log = logging.getLogger("vigil.serving")

DETECTIONS = 2  # at once: more threads than that only take the interpreter from each other


def create_app(worker: Worker) -> Starlette:
    """The application BentoML mounts; `worker` is started before the first request."""
    endpoints = Endpoints(worker)
    return Starlette(
        routes=[
            Route("/score", endpoints.score, methods=["POST"]),
            Route("/detect", endpoints.detect, methods=["POST"]),
            Route("/explain", endpoints.explain, methods=["POST"]),
            Route("/activity", endpoints.activity),
            Route("/models", endpoints.models),
            Route("/live", endpoints.live),
            Route("/ready", endpoints.ready),
            Route("/metrics", endpoints.metrics),
        ],
        exception_handlers={VigilError: endpoints.refuse, Exception: endpoints.fail},
    )


class Endpoints:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._detecting = anyio.CapacityLimiter(DETECTIONS)

    async def score(self, request: Request) -> Response:
        """float32 little-endian rows in, wire.SCORED records out, in the order of the rows."""
        started = time.perf_counter()
        model = self._worker.registry.held.get(request.headers.get("X-Vigil-Model-Version"))
        offered = request.headers.get("X-Vigil-Feature-Set", "")
        if offered != model.manifest.feature_set_id:
            raise FeatureSetMismatch(model.manifest.feature_set_id, offered or "no X-Vigil-Feature-Set")
        X = await self._read_rows(request, model)
        scored = await anyio.to_thread.run_sync(scorer.score, model, X) if len(X) else b""
        self._worker.metrics.rows.labels(model.version).inc(len(X))
        self._worker.metrics.score_seconds.observe(time.perf_counter() - started)
        content = scored if isinstance(scored, bytes) else scored.tobytes()
        return Response(content, media_type=BINARY, headers=_identity(model))

    async def detect(self, request: Request) -> Response:
        started = time.perf_counter()
        record = _flag(request, "record")
        payload = await _read(request, MAX_PAYLOAD_BYTES + 1)  # one byte more is enough for TOO_LARGE
        answer = await anyio.to_thread.run_sync(self._worker.detector.detect, payload, limiter=self._detecting)
        if record:  # which waits for Kafka, and keeps nobody else from being answered
            answer["recorded_as"] = await anyio.to_thread.run_sync(self._worker.record, answer["user_id"], payload)
        self._worker.metrics.detect_seconds.observe(time.perf_counter() - started)
        return _json(answer)

    async def explain(self, request: Request) -> Response:
        """A stored decision's score taken apart, by the version that gave it: see explain.explained."""
        asked = Question.parse(await _read(request, MAX_PAYLOAD_BYTES))
        model = self._worker.registry.held.get(asked.model_version)
        return _json(await anyio.to_thread.run_sync(explained, model, asked))

    async def activity(self, request: Request) -> Response:
        """What Feast knows of a user now, by name; null where it knows nothing."""
        user_id = request.query_params.get("user_id", "")
        if not user_id:
            raise ParameterInvalid("user_id", "is missing")
        return _json({"features": await anyio.to_thread.run_sync(self._worker.activity, user_id)})

    async def models(self, _: Request) -> Response:
        held = self._worker.registry.held
        if held.champion is None:
            raise ModelLoading
        return _json(
            {
                "champion": held.champion.version,
                "challenger": await anyio.to_thread.run_sync(self._worker.challenger),
                "loaded": [_described(model) for model in held.loaded],
            }
        )

    async def live(self, _: Request) -> Response:
        return _json({"status": "live"}) if self._worker.alive else _json({"status": "dead"}, 503)

    async def ready(self, request: Request) -> Response:
        """Whether scores and detection are served; also says why the newest champion or challenger is not."""
        missing = self._worker.missing
        registry = self._worker.registry
        body: dict[str, Any] = {
            "status": "not ready" if missing else "ready",
            "missing": missing,
            "registry_reachable": registry.reachable,
            "refused": _refused(registry.refusal),
            "challenger_refused": _refused(registry.challenger_refusal),
        }
        if "model" in missing:
            error = ModelLoading()
            body = {**problem(error, _request_id(request)), **body, "status": error.status}
            return Response(encode(body), error.status, media_type=MEDIA_TYPE)
        return _json(body, 503 if missing else 200)

    async def metrics(self, _: Request) -> Response:
        content, content_type = await anyio.to_thread.run_sync(self._worker.metrics.render)
        return Response(content, headers={"Content-Type": content_type})

    async def refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, VigilError)
        request_id = _request_id(request)
        self._worker.metrics.refused.labels(error.code).inc()
        if error.status >= 500 and not isinstance(error, ModelLoading):  # that one may last for days
            log.warning("%s %s: %s: %s", request_id, request.url.path, error.code, error)
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return Response(encode(problem(error, request_id)), error.status, headers, MEDIA_TYPE)

    async def fail(self, request: Request, _: Exception) -> Response:
        """An error without a name: a fault of ours. The server logs its traceback."""
        request_id = _request_id(request)
        unexpected = VigilError("an unexpected error; the log has it under this request id")
        log.error("%s %s failed", request_id, request.url.path)
        return Response(encode(problem(unexpected, request_id)), 500, media_type=MEDIA_TYPE)

    async def _read_rows(self, request: Request, model: Artifact) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The body as float32[n, F] of that model. Raises BatchTooLarge, FeatureSetMismatch."""
        width = len(model.manifest.columns)
        limit = self._worker.settings.max_score_rows
        body = await _read(request, (limit + 1) * width * 4)
        if len(body) > limit * width * 4:
            raise BatchTooLarge(max(len(body), _announced(request)) // (width * 4), limit)
        if len(body) % (width * 4):
            raise FeatureSetMismatch(
                f"rows of {width} float32 columns", f"{len(body)} bytes, which is no whole number of them"
            )
        return np.frombuffer(body, "<f4").reshape(-1, width)


def _described(model: Artifact) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "version": model.version,
        "feature_set_id": manifest.feature_set_id,
        "columns": list(manifest.columns),
        "threshold": manifest.threshold,
        "alert_budget": manifest.alert_budget,
        "artifact_sha256": model.sha256,
    }


def _refused(refusal: Refusal | None) -> dict[str, str] | None:
    return None if refusal is None else {"version": refusal.registered.version, "code": refusal.error.code}


def _identity(model: Artifact) -> dict[str, str]:
    return {
        "X-Vigil-Model-Version": model.version,
        "X-Vigil-Feature-Set": model.manifest.feature_set_id,
        "X-Vigil-Artifact-Sha256": model.sha256,
    }


async def _read(request: Request, limit: int) -> bytes:
    """The body, of which nothing beyond `limit` bytes is kept."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        pieces.append(piece[: limit - size])
        size += len(pieces[-1])
        if size == limit:
            break
    return b"".join(pieces)


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _flag(request: Request, name: str) -> bool:
    match request.query_params.get(name, "false"):
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ParameterInvalid(name, "must be true or false")


def _request_id(request: Request) -> str:
    return str(request.scope.get("vigil.request_id", ""))


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body, allow_nan=False), status, media_type=JSON)
