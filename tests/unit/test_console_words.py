"""What the console says of reasons, numbers and times, and how a view is its URL."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from api.console import filters, words
from api.search.schemas import SearchQuery
from api.transactions.schemas import ListFilters
from feature_repo.activity import AGGREGATES
from feature_repo.evidence import evidence
from feature_repo.features import NAMES, REASONS, Reason

AT = datetime(2026, 7, 15, 22, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(("direction", "said"), [("above", "Burst of payments"), ("below", "Unusual pace of payments")])
def test_fewer_payments_than_usual_are_no_burst(direction: str, said: str) -> None:
    assert words.reason(Reason.BURST, [{"direction": direction}]) == said


def test_every_reason_and_feature_has_words() -> None:
    assert set(words.REASONS) == set(REASONS)
    assert set(words.FEATURES) == set(NAMES)
    assert set(words.ACTIVITY) == {one.name for one in AGGREGATES} - {"kafka_partition", "kafka_offset"}


@pytest.mark.parametrize("seed", range(8))
def test_all_evidence_there_can_be_is_a_sentence_of_its_own(seed: int) -> None:
    """None falls through to the form for measures that nobody has put into words."""
    drawn = np.random.default_rng(seed).uniform(0.05, 3.0, len(NAMES))
    row = dict(zip(NAMES, drawn.tolist(), strict=True))
    row |= {"new_merchant": float(seed % 2), "new_location": float(seed % 2), "history": 3.0}
    row |= {"merchants_24h": 1.5, "locations_24h": 1.5}
    found = [one.as_json() for one in evidence(list(REASONS), row)]
    assert {one["reason"] for one in found} == set(REASONS)
    for one in found:
        said = words.evidence(one, "USD")
        assert said.endswith(".") and not said.startswith(one["measure"].capitalize()), one


def test_a_measure_nobody_has_put_into_words_is_still_told() -> None:
    found = {"measure": "height", "value": 3.0, "usual": 1.5, "unit": "m", "reason": "x", "direction": "above"}
    assert words.evidence(found, "USD") == "Height: 3 m; usual: 1.50."


@pytest.mark.parametrize(
    ("value", "usual", "said"),
    [
        (1500, 62.4, "USD 1,500.00 is 24 times the user's mean of 30 days (USD 62.40)."),
        (75, 60, "USD 75.00 is 25 % more than the user's mean of 30 days (USD 60.00)."),
        (60, 60, "USD 60.00 is about the user's mean of 30 days (USD 60.00)."),
        (30, 60, "USD 30.00 is 50 % of the user's mean of 30 days (USD 60.00)."),
    ],
)
def test_an_amount_is_told_beside_the_usual_one(value: float, usual: float, said: str) -> None:
    found = {"measure": "amount against the mean of 30 days", "value": value, "usual": usual}
    assert words.evidence(found, "USD") == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 0, "-"), (0, 9, "0 %"), (1, 3, "33 %"), (1, 200, "0.50 %"), (3, 100, "3.0 %"), (1, 10**6, "< 0.01 %")],
)
def test_a_share_is_never_written_with_an_exponent(part: float, whole: float, said: str) -> None:
    assert words.share(part, whole) == said


def test_times_are_those_of_the_readers_clock() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert words.local(AT, berlin) == "16 Jul 2026, 00:30:05"
    assert words.brief(AT, berlin, AT) == "16 Jul, 00:30:05"
    assert words.utc(AT.astimezone(berlin)) == "2026-07-15 22:30:05 UTC"


def test_a_refusal_names_the_scope_and_how_to_get_it() -> None:
    said = words.problem({"code": "SCOPE_MISSING", "detail": "the key lacks scope labels", "scope": "labels"})
    assert "labels" in said and "vigil keys create NAME --scope labels" in said


# ---- a view is its URL ------------------------------------------------------------------------------

VIEW = {
    "q": 'location:"new york" coffee', "from": "2026-11-26T23:00:00Z", "user_id": "a&b=c", "min_amount": "10",
    "is_anomaly": "true", "reason": "impossible_travel", "merchant": "Café",
}  # fmt: skip


def test_a_view_comes_back_from_its_url() -> None:
    assert filters.read(filters.written(VIEW)) == VIEW
    assert filters.written({"sort": filters.USUAL_SORT, "q": ""}) == ""
    assert filters.read("?limit=9&x=1&decision=review&q=%20") == {"decision": "review"}


def test_the_form_has_what_the_service_can_filter_by() -> None:
    of_service = {field.alias or name for name, field in ListFilters.model_fields.items()}
    assert set(filters.NAMES) - {"q"} == of_service - {"limit", "cursor", "start_time", "end_time"}
    of_search = {field.alias or name for name, field in SearchQuery.model_fields.items()}
    assert set(filters.NAMES) - {"sort"} == of_search - {
        "limit", "cursor", "start_time", "end_time", "facets",
    }  # fmt: skip


def test_with_a_text_search_is_asked_and_that_the_order_does_not_count_is_told() -> None:
    sorted_view = {**VIEW, "sort": "-amount"}
    path, parameters = filters.question(sorted_view)
    assert (path, parameters) == ("/search", VIEW)
    SearchQuery.model_validate(parameters)
    assert filters.order_ignored(sorted_view)
    assert not filters.order_ignored({**VIEW, "sort": filters.USUAL_SORT})
    assert filters.question(filters.without(sorted_view, "q"))[0] == "/transactions"
    assert not filters.order_ignored(filters.without(sorted_view, "q"))


def test_a_file_holds_exactly_the_view() -> None:
    listed = filters.without(VIEW, "q")
    assert filters.export(listed, "csv") == f"/console/transactions.csv{filters.written(listed)}"
    assert filters.export({**VIEW, "sort": "-amount"}, "ndjson") == f"/console/search.ndjson{filters.written(VIEW)}"
