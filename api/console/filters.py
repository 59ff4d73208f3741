"""The filters of the payments page: a view is its URL, so that it can be sent to somebody."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

# In the order of the form; the names are the service's.
TEXTS = ("user_id", "merchant", "location", "payment_method", "model_version")
NAMES = (
    "q", "from", "to", "user_id", "min_amount", "max_amount", "decision", "is_anomaly", "reason", "merchant",
    "location", "payment_method", "model_version", "outcome", "sort",
)  # fmt: skip
USUAL_SORT = "-event_time"

Filters = Mapping[str, str]


def read(search: str | None) -> dict[str, str]:
    """Filters of a URL's `?…`; what the page does not know is left out."""
    given = dict(parse_qsl((search or "").removeprefix("?")))
    return {name: given[name].strip() for name in NAMES if given.get(name, "").strip()}


def written(filters: Filters) -> str:
    """The `?…` of a view, the same for the same filters; empty for none."""
    kept = {name: filters[name] for name in NAMES if filters.get(name)}
    if kept.get("sort") == USUAL_SORT:
        del kept["sort"]
    return f"?{urlencode(kept)}" if kept else ""


def question(filters: Filters) -> tuple[str, dict[str, str]]:
    """Which path of the service answers it, and with which parameters."""
    if filters.get("q"):
        return "/search", without(filters, "sort")
    return "/transactions", dict(filters)


def order_ignored(filters: Filters) -> bool:
    """Whether an order was asked for that does not count: search by text answers newest first."""
    return bool(filters.get("q")) and filters.get("sort", USUAL_SORT) != USUAL_SORT


def export(filters: Filters, form: str) -> str:
    """Where the filtered payments are to be had as a file."""
    path, parameters = question(filters)
    return f"/console{path}.{form}{written(parameters)}"


def without(filters: Filters, *names: str) -> dict[str, str]:
    return {name: value for name, value in filters.items() if name not in names}
