"""Amounts as filters take them: what PostgreSQL cannot read is refused before it is asked."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from api.filters import Filters


@pytest.mark.parametrize("text", ["1e-20000", "1.00001", "1e-5", "1e15", "1e20000", "-0.0001"])
def test_an_amount_that_no_payment_can_have_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Filters.model_validate({"min_amount": text})


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0e-20000", "0.0000"), ("0e20000", "0.0000"), ("50.5", "50.5000"), ("50." + "0" * 20_000, "50.0000"),
        ("1e14", "100000000000000.0000"), ("0.0001", "0.0001"),
    ],
)  # fmt: skip
def test_an_amount_is_written_with_four_decimals_however_it_came(text: str, amount: str) -> None:
    found = Filters.model_validate({"max_amount": text}).max_amount
    assert str(found) == str(Decimal(amount)) == amount
