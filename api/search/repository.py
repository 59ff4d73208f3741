"""Decisions in Elasticsearch: structured queries over the alias `decisions`, never a query string."""

from dataclasses import dataclass
from typing import Any

import httpx

from api.filters import Filters
from api.search.schemas import SearchQuery
from api.search.syntax import FIELDS, Term
from feature_repo.errors import StoreUnavailable

ALIAS = "decisions"
TIMEOUT_S = 5.0
POSITIONS = ("merchant", "location")  # fields indexed with word positions, which phrases need

# Newest first, as in the list; where a payment lay in Kafka makes the order total.
SORT = [
    {"event_time": {"order": "desc", "format": "strict_date_optional_time_nanos"}},
    {"kafka_partition": "desc"},
    {"kafka_offset": "desc"},
]
FACETS = ("decision", "model_version", "outcome", "anomaly_reasons")
FACET_VALUES = 20
HIGHLIGHT = {
    "fields": {field: {} for field in FIELDS},
    "number_of_fragments": 0,  # whole fields: they are short
    "encoder": "html",
    "pre_tags": ["<mark>"],
    "post_tags": ["</mark>"],
}
# One letter wrong from four letters on, two from eight. The first letter holds, or the whole dictionary is visited.
SIMILAR = {"fuzziness": "AUTO:4,8", "prefix_length": 1, "max_expansions": 30}


@dataclass(frozen=True)
class Found:
    """`hits`: {"_source": the document, "sort": its place, "highlight": fields that matched}."""

    hits: list[dict[str, Any]]
    facets: dict[str, list[dict[str, Any]]]


class SearchRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, url: str) -> None:
        self._url = url
        # A store of ours: a proxy meant for the internet must not be asked for it.
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)

    def page(self, wanted: list[list[Term]], asked: SearchQuery, after: list[Any] | None, similar: bool) -> Found:
        """At most `limit + 1` hits. `similar` forgives typing errors in single words."""
        query: dict[str, Any] = {
            "size": asked.limit + 1,
            "query": {"bool": {"must": [any_of(wanted, similar)], **conditions(asked)}},
            "sort": SORT,
            "highlight": HIGHLIGHT,
            "track_total_hits": False,
            "timeout": f"{TIMEOUT_S:g}s",
        }
        if asked.facets:
            query["aggs"] = {name: {"terms": {"field": name, "size": FACET_VALUES}} for name in FACETS}
        if after is not None:
            query["search_after"] = after
        try:
            response = self._http.post(
                f"/{ALIAS}/_search", params={"allow_partial_search_results": "false"}, json=query
            )
        except httpx.HTTPError as error:
            raise self._down(str(error) or type(error).__name__) from error
        if response.status_code != 200:
            raise self._down(f"HTTP status {response.status_code} {_reason(response)}")
        answer = response.json()
        if answer["timed_out"]:
            raise self._down("the search took too long; a part of the answer would be no answer")
        facets = {
            name: [{"value": str(bucket["key"]), "count": bucket["doc_count"]} for bucket in found["buckets"]]
            for name, found in answer.get("aggregations", {}).items()
        }
        return Found(answer["hits"]["hits"], facets)

    def close(self) -> None:
        self._http.close()

    def _down(self, cause: str) -> StoreUnavailable:
        return StoreUnavailable("Elasticsearch", self._url, cause)


def any_of(alternatives: list[list[Term]], similar: bool) -> dict[str, Any]:
    choices = [{"bool": {"must": [matching(term, similar) for term in terms]}} for terms in alternatives]
    return choices[0] if len(choices) == 1 else {"bool": {"should": choices, "minimum_should_match": 1}}


def matching(term: Term, similar: bool) -> dict[str, Any]:
    """One term in any of its fields."""
    choices: list[dict[str, Any]] = []
    for field in term.fields:
        if term.kind == "prefix":
            choices.append({"prefix": {field: {"value": term.text, "case_insensitive": True}}})
        elif term.kind == "phrase" and field in POSITIONS:
            choices.append({"match_phrase": {field: {"query": term.text}}})
        else:
            forgiving = SIMILAR if similar and term.kind == "word" else {}
            choices.append({"match": {field: {"query": term.text, "operator": "and", **forgiving}}})
    return choices[0] if len(choices) == 1 else {"bool": {"should": choices, "minimum_should_match": 1}}


def conditions(filters: Filters) -> dict[str, Any]:
    """The filters as clauses that do not score."""
    exact = {
        name: getattr(filters, name)
        for name in ("user_id", "is_anomaly", "model_version", "decision", "outcome")
        if getattr(filters, name) is not None
    }
    clauses: list[dict[str, Any]] = [{"term": {name: value}} for name, value in exact.items()]
    if filters.reason is not None:
        clauses.append({"term": {"anomaly_reasons": filters.reason.value}})
    time = {"gte": filters.since, "lt": filters.until}
    bounds = {name: value.isoformat() for name, value in time.items() if value is not None}
    if bounds:
        clauses.append({"range": {"event_time": bounds}})
    amounts = {"gte": filters.min_amount, "lte": filters.max_amount}
    amount_bounds = {name: float(value) for name, value in amounts.items() if value is not None}
    if amount_bounds:
        clauses.append({"range": {"amount": amount_bounds}})
    excluded = [] if filters.outcome is not None else [{"term": {"outcome": "duplicate"}}]
    return {"filter": clauses, "must_not": excluded}


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["type"])
    except (ValueError, KeyError, TypeError):
        return ""
