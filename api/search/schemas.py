"""What can be asked of search, and what it answers: the same decisions as the list."""

from pydantic import Field

from api.filters import Filters
from api.transactions.schemas import Page

SearchPage = Page


class SearchQuery(Filters):
    q: str = Field(
        description='words, "phrases", prefix*, field:term (merchant, location, payment_method), OR',
        examples=['"New York"', "location:boston coffee OR tea", "star*"],
    )
