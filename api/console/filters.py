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
# What search by text does not take: it answers newest first, and narrows by words of the text.
NOT_WITH_TEXT = ("merchant", "location", "payment_method", "sort")

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
        return "/search", {name: value for name, value in filters.items() if name not in NOT_WITH_TEXT}
    return "/transactions", dict(filters)


def left_out(filters: Filters) -> list[str]:
    """Filters that do not count, as there is a text to search for."""
    return [name for name in NOT_WITH_TEXT if filters.get("q") and filters.get(name) not in (None, "", USUAL_SORT)]


def export(filters: Filters, form: str) -> str:
    """Where the filtered payments are to be had as a file."""
    path, parameters = question(filters)
    return f"/console{path}.{form}{written(parameters)}"


def without(filters: Filters, *names: str) -> dict[str, str]:
    return {name: value for name, value in filters.items() if name not in names}
