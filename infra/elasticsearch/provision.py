"""Puts the index template into Elasticsearch. Safe to run again; changes no document."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elastic_transport import TransportError
from elasticsearch import ApiError, BadRequestError, Elasticsearch

from feature_repo.errors import StoreUnavailable
from feature_repo.settings import Settings

ALIAS = "decisions"
TEMPLATE_FILE = Path(__file__).with_name("decisions.json")
TIMEOUT_S = 10


def template() -> dict[str, Any]:
    """The composable index template, as in decisions.json."""
    body: dict[str, Any] = json.loads(TEMPLATE_FILE.read_text())
    return body


def apply(settings: Settings) -> None:
    """The template, new fields in the indices that exist, and an index of today so that search can start.

    A field that was declared otherwise before stays so in the indices that exist (Elasticsearch cannot change
    it) until `vigil reindex --fresh`. Raises StoreUnavailable where Elasticsearch does not answer.
    """
    with _client(settings) as client:
        _apply(client)


def remove(settings: Settings, names: list[str] | None = None) -> list[str]:
    """Deletes these indices, or every one behind the alias, and answers their names. Raises StoreUnavailable."""
    with _client(settings) as client:
        if names is None:
            names = sorted(client.indices.get(index=f"{ALIAS}-*", features="aliases"))
        for name in names:  # by name: a server may refuse to delete by pattern
            client.indices.delete(index=name, ignore_unavailable=True)
        return names


def sizes(settings: Settings) -> list[tuple[str, int, int]]:
    """Name, documents and bytes of every index behind the alias, the oldest day first. Raises StoreUnavailable."""
    with _client(settings) as client:
        found = client.indices.stats(index=f"{ALIAS}-*", metric=["docs", "store"])["indices"]
        totals = ((name, index["primaries"]["docs"]["count"], index["total"]["store"]) for name, index in found.items())
        return sorted((name, documents, store["size_in_bytes"]) for name, documents, store in totals)


@contextmanager
def _client(settings: Settings) -> Iterator[Elasticsearch]:
    url = settings.elasticsearch_url
    try:
        with Elasticsearch(url, request_timeout=TIMEOUT_S, max_retries=0) as client:
            yield client
    except TransportError as error:
        raise StoreUnavailable("Elasticsearch", url, error.message, remedy="vigil up") from error
    except ApiError as error:
        raise StoreUnavailable("Elasticsearch", url, f"{error.status_code} {error.message}") from error


def _apply(client: Elasticsearch) -> None:
    body = template()
    client.indices.put_index_template(name=ALIAS, body=body)
    wanted = body["template"]["mappings"]["properties"]
    for name, index in client.indices.get(index=f"{ALIAS}-*", features="mappings").items():
        missing = wanted.keys() - index["mappings"].get("properties", {}).keys()
        if missing:
            client.indices.put_mapping(index=name, properties={field: wanted[field] for field in missing})
    today = f"{ALIAS}-{datetime.now(UTC):%Y.%m.%d}"
    if not client.indices.exists(index=today):
        try:
            client.indices.create(index=today)
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":  # the indexer was quicker
                raise
