"""Writes documents to Elasticsearch in bulks, until each is in or refused for good."""

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch
from elasticsearch.serializer import CompatibilityModeJsonSerializer, CompatibilityModeNdjsonSerializer

from feature_repo.settings import Settings
from streaming import bulk
from streaming.breaker import pause_s

log = logging.getLogger(__name__)

BULK_BYTES = 8 << 20  # 5 to 15 MB is where Elasticsearch's own guide finds the best rate
REQUEST_TIMEOUT_S = 60.0
PAUSE_S = (0.5, 10.0)  # bounds of the first and the longest pause between two tries
ANSWER = "errors,items.index.status,items.index.error.type,items.index.error.reason"
CONFLICT = 409  # this revision or a newer one is there already
TOO_LARGE = 413
# Answered with 400, yet not about the document: the cluster has no room for another index.
NOT_THE_DOCUMENT = frozenset({"validation_exception", "cluster_block_exception", "index_closed_exception"})


@dataclass(frozen=True)
class Refusal:
    """A document that Elasticsearch will never take as it is. `reason` does not hold its values."""

    decision_id: str
    revision: int
    code: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """What one request did: entries to send again and why, and those refused."""

    again: Sequence[bytes]
    cause: str
    refused: list[Refusal]


class _Lines(CompatibilityModeNdjsonSerializer):
    """Sends the lines of a bulk as they are; they are checked and copied twice otherwise."""

    def dumps(self, data: Any) -> bytes:
        lines: bytes = data
        return lines


class _Answers(CompatibilityModeJsonSerializer):
    """Reads no further than that nothing failed: the results of each document cost more than building it."""

    def loads(self, data: bytes) -> Any:
        return {"errors": False} if data.startswith(b'{"errors":false') else super().loads(data)


class SearchWriter:
    """Bulk writes over one connection; for a `with` block.

    `stop` ends the waiting for a server that is away, never a request that is under way.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._client = Elasticsearch(
            settings.elasticsearch_url,
            max_retries=0,
            request_timeout=REQUEST_TIMEOUT_S,
            serializers={serializer.mimetype: serializer for serializer in (_Lines(), _Answers())},
        )
        self._stop = stop
        self.retries = 0
        self.waits_since: float | None = None  # of time.monotonic(), while a write is refused for now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def write(self, entries: Sequence[bytes]) -> list[Refusal] | None:
        """Blocks until every entry is indexed or refused; answers the refused ones.

        None: stopped while Elasticsearch was away; some may be in, and writing all again is harmless.
        """
        refused: list[Refusal] = []
        pending, tries, away_since = entries, 0, time.monotonic()
        while pending:
            answer = self._send(pending)
            refused += answer.refused
            if not answer.again:
                break
            tries = 0 if len(answer.again) < len(pending) else tries + 1
            pending = answer.again
            self.retries += 1
            self.waits_since = away_since
            if tries % 10 == 1:
                log.warning("%d documents wait for Elasticsearch: %s", len(pending), answer.cause)
            if self._stop.wait(pause_s(tries, *PAUSE_S)):
                return None
        self.waits_since = None
        if tries:
            log.info("Elasticsearch took them after %.0f s", time.monotonic() - away_since)
        return refused

    def _send(self, entries: Sequence[bytes]) -> Answer:
        try:
            response = self._client.bulk(
                operations=b"".join(entries),  # type: ignore[arg-type] # bytes are passed through as they are
                filter_path=ANSWER,
                include_source_on_error=False,
            )
        except TransportError as error:
            return Answer(entries, error.message, [])
        except ApiError as error:
            if error.status_code not in (400, TOO_LARGE) or _kind(error.body) in NOT_THE_DOCUMENT:
                return Answer(entries, f"{error.status_code} {error.message}", [])
            return self._halve(entries, error)
        return _sort(entries, response) if response["errors"] else Answer([], "", [])

    def _halve(self, entries: Sequence[bytes], error: ApiError) -> Answer:
        """A request refused as a whole: find the entries it is refused for."""
        if len(entries) == 1:
            reason = f"refused with status {error.status_code}"
            return Answer([], "", [Refusal(*bulk.address(entries[0]), _kind(error.body), reason)])
        middle = len(entries) // 2
        first, second = self._send(entries[:middle]), self._send(entries[middle:])
        return Answer([*first.again, *second.again], first.cause or second.cause, first.refused + second.refused)


def _sort(entries: Sequence[bytes], response: Any) -> Answer:
    """Splits the entries of a bulk with failures by what to do with each."""
    again: list[bytes] = []
    refused: list[Refusal] = []
    cause = ""
    for entry, item in zip(entries, response["items"], strict=True):
        result = item["index"]
        status = result["status"]
        if status < 300 or status == CONFLICT:
            continue
        kind, reason = result["error"]["type"], result["error"]["reason"]
        if status in (400, TOO_LARGE) and kind not in NOT_THE_DOCUMENT:
            refused.append(Refusal(*bulk.address(entry), kind, _without_values(reason)))
        else:
            again.append(entry)
            cause = f"{status} {kind}: {reason}"
    return Answer(again, cause, refused)


def _kind(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("type")) if isinstance(error, dict) else "request_refused"


def _without_values(reason: str) -> str:
    """Up to where it quotes the document: a value may be something nobody should read here."""
    return re.split(r"'|Preview of|The prefix of", reason, maxsplit=1)[0].strip()
