"""The model service, as the query service sees it."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx

from feature_repo.errors import DependencyDown
from feature_repo.problem import REQUEST_ID

# The service closes idle connections after 5 s; ours are given up before, so that none breaks in use.
KEEP_ALIVE_S = 3.0
RECORD_S = 11.0  # what the service may take beyond its deadline to make a recorded payment durable
MODELS_FOR_S = 5.0  # how long an answer about loaded versions is good


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes


class ModelService:
    """One per process; its coroutines and its blocking calls may be used together."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE_S)
        self._session: aiohttp.ClientSession | None = None  # made in the loop that uses it
        self._blocking = httpx.Client(base_url=url, timeout=timeout_s, limits=limits, trust_env=False)
        self._described: dict[str, dict[str, Any]] = {}
        self._asked = float("-inf")

    async def detect(self, payload: bytes, record: bool, request_id: str) -> Answer:
        """The service's own answer, a problem included. Raises DependencyDown where there is none."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self._url, connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_S), trust_env=False
            )
        headers = {"Content-Type": "application/json", REQUEST_ID: request_id}
        deadline = aiohttp.ClientTimeout(total=self._timeout_s + (RECORD_S if record else 0))
        path = "/detect?record=true" if record else "/detect"
        try:
            async with self._session.post(path, data=payload, headers=headers, timeout=deadline) as response:
                return Answer(response.status, response.headers.get("Content-Type", ""), await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._down(error) from error

    def artifact_of(self, version: str) -> str | None:
        """sha256 of a version's artefact; None where it is not loaded or the service is away. Blocks."""
        found: str | None = self._loaded(version).get("artifact_sha256")
        return found

    def threshold_of(self, version: str) -> float | None:
        """Score from which on a version flags; None where it is not loaded or the service is away. Blocks."""
        found: float | None = self._loaded(version).get("threshold")
        return found

    def _loaded(self, version: str) -> dict[str, Any]:
        if time.monotonic() - self._asked > MODELS_FOR_S:
            self._asked = time.monotonic()  # in vain too: one question at a time waits for a service that hangs
            with suppress(httpx.HTTPError, ValueError, KeyError):
                loaded = self._blocking.get("/models").raise_for_status().json()["loaded"]
                self._described |= {model["version"]: model for model in loaded}
        return self._described.get(version, {})

    def explain(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """The model service's explanation of a stored decision; None where that version is not loaded any more.

        Blocks. Raises DependencyDown.
        """
        response = self._ask("POST", "/explain", json=question)
        if response.status_code in (409, 422):  # another version, or other features than it was decided from
            return None
        return self._sound(response)

    def activity(self, user_id: str) -> dict[str, Any] | None:
        """What Feast knows of a user now; None for a user it does not know. Blocks. Raises DependencyDown."""
        found: dict[str, Any] | None = self._sound(self._ask("GET", "/activity", params={"user_id": user_id}))[
            "features"
        ]
        return found

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._blocking.close()

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._blocking.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._down(error) from error

    def _sound(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code != 200:
            raise DependencyDown("the model service", self._url, f"HTTP status {response.status_code}")
        body: dict[str, Any] = response.json()
        return body

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown("the model service", self._url, str(error) or type(error).__name__)
