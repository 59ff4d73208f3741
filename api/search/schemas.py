"""What can be asked of search, and what it answers: the same decisions as the list."""

from typing import Literal

from pydantic import BaseModel, Field

from api.filters import Filters, Paged, Text
from api.transactions.schemas import Page, UtcTime


class SearchFilters(Filters):
    q: str = Field(
        description='words, "phrases", prefix*, field:term (merchant, location, payment_method), OR',
        examples=['"New York"', "location:boston coffee OR tea", "star*"],
    )
    merchant: Text | None = Field(None, description='with this in the name, as `merchant:"..."` in q')
    location: Text | None = Field(None, description='with this in the place, as `location:"..."` in q')
    payment_method: Text | None = Field(None, description='with this way to pay, as `payment_method:"..."` in q')


class SearchQuery(SearchFilters, Paged):
    facets: bool = Field(False, description="also count the matches by decision, version, outcome and reason")


class Facet(BaseModel):
    value: str
    count: int


class SearchPage(Page):
    """Decisions that match, newest first, and how they were found."""

    highlights: list[dict[str, str]] = Field(
        description="of each item, the fields that matched: escaped for HTML, the words within <mark>"
    )
    facets: dict[str, list[Facet]] | None = Field(description="of all matches, most frequent first")
    matched: Literal["exact", "similar"] = Field(
        description="similar: no payment has these words, so words that differ by a letter or two were taken"
    )
    source: Literal["elasticsearch", "postgresql"] = Field(
        description="postgresql: Elasticsearch does not answer, so whole words and beginnings of words were looked for "
        "in the table, without highlights, facets and similar words"
    )
    searched_since: UtcTime | None = Field(description="of PostgreSQL: nothing older was looked at")
