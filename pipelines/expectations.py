"""What a history must be to train on, made from the contract: Great Expectations over rows and over totals.

Rows are looked at whole up to ROWS_AT_MOST, else evenly sampled; totals are always of the whole history.
Importing this module imports Great Expectations, which takes seconds: only `quality` does, when asked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from great_expectations.expectations.core.expect_column_max_to_be_between import ExpectColumnMaxToBeBetween
from great_expectations.expectations.core.expect_column_pair_values_a_to_be_greater_than_b import (
    ExpectColumnPairValuesAToBeGreaterThanB,
)
from great_expectations.expectations.core.expect_column_value_lengths_to_be_between import (
    ExpectColumnValueLengthsToBeBetween,
)
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull

from feature_repo.transaction import MAX_AMOUNT, MAX_ID_CHARACTERS, MAX_TEXT_CHARACTERS, REQUIRED
from pipelines.profile import TEXTS

LEAST_ROWS = 1_000
LARGEST_DROPPED_SHARE = 0.05
LARGEST_FRAUD_SHARE = 0.2
LARGEST_VOCABULARY = 0.9  # distinct values per payment: above it a column names payments, not merchants or users
MOST_METHODS = 1_000
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
OLD_SHARE = 0.01  # of payments before OLDEST, which the stream accepts; more is a wrong unit of time
AHEAD = timedelta(minutes=5)
# Against the previous import. A population stability index above 0.25 is called a large shift (Siddiqi 2006).
LARGEST_SHIFT = 0.25
LARGEST_RATIO = 4.0  # of payments per day, and of fraud shares

Table = Literal["rows", "totals"]


@dataclass(frozen=True)
class Check:
    """One expectation. `says` completes "it is expected that …"."""

    name: str
    says: str
    table: Table
    expectation: Any


def of_rows(now: datetime, *, simulated: bool) -> list[Check]:
    """Checks of single payments; the columns are HISTORY_SCHEMA's."""
    required = ["event_time" if name == "timestamp" else name for name in REQUIRED]
    checks = [
        _rows(f"{name}_present", f"every payment has {name}", ExpectColumnValuesToNotBeNull(column=name))
        for name in [*required, "arrival_time"]
    ]
    for name in ("transaction_id", "user_id"):
        checks.append(_lengths(name, MAX_ID_CHARACTERS))
    for name in ("merchant", "location", "payment_method"):
        checks.append(_lengths(name, MAX_TEXT_CHARACTERS))
    checks += [
        _between("amount_range", f"amounts are above 0 and at most {MAX_AMOUNT:g}", "amount", 0, MAX_AMOUNT, open=True),
        _between("latitude_range", "latitudes are within 90 degrees", "latitude", -90, 90),
        _between("longitude_range", "longitudes are within 180 degrees", "longitude", -180, 180),
        _rows(
            "time_not_ancient",
            f"all but {OLD_SHARE:.0%} of event times are later than {OLDEST.year}",
            ExpectColumnValuesToBeBetween(column="event_time", min_value=OLDEST, mostly=1 - OLD_SHARE),
        ),
        _between(
            "time_before_arrival",
            "no payment arrives more than 5 minutes before it happens",
            "arrival_lag_s",
            -AHEAD.total_seconds(),
            None,
        ),
        _rows(
            "label_after_event",
            "no report of fraud comes before its payment",
            ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="label_time",
                column_B="event_time",
                or_equal=True,
                ignore_row_if="either_value_is_missing",
            ),
        ),
    ]
    if not simulated:  # a simulation may be of next year
        checks.append(
            _rows(
                "time_not_ahead",
                "no event time lies ahead of the clock",
                ExpectColumnValuesToBeBetween(column="event_time", max_value=now + AHEAD),
            )
        )
    return checks


def of_totals(*, imported: bool, labelled: bool) -> list[Check]:
    """Checks of the history as a whole; the columns are quality.totals'."""
    checks = [
        _total("rows_enough", f"there are at least {LEAST_ROWS:,} payments", "rows", LEAST_ROWS, None),
        _total("ids_unique", "no transaction id is used twice", "repeated_ids", None, 0),
        _total("order_of_arrival", "payments stand in the order they arrived", "out_of_order", None, 0),
        _total("users_repeat", "users pay more than once", "users_per_payment", None, LARGEST_VOCABULARY),
        _total("merchants_repeat", "merchants sell more than once", "merchants_per_payment", None, LARGEST_VOCABULARY),
        _total("methods_few", f"there are at most {MOST_METHODS:,} payment methods", "methods", 1, MOST_METHODS),
        _total("currency_one", "at most half the payments are in another currency", "other_currency_share", None, 0.5),
        _total("frauds_timed", "every reported fraud says when it was reported", "frauds_without_time", None, 0),
    ]
    if imported:
        text = f"the import dropped at most {LARGEST_DROPPED_SHARE:.0%} of the file's rows"
        checks.append(_total("dropped_few", text, "dropped_share", None, LARGEST_DROPPED_SHARE))
    if labelled:
        text = f"some payments are reported as fraud, and at most {LARGEST_FRAUD_SHARE:.0%}"
        checks.append(_total("fraud_share", text, "fraud_share", 1e-9, LARGEST_FRAUD_SHARE))
    return checks


def of_shifts(shifts: Iterable[str]) -> list[Check]:
    """Checks against the previous import; the columns are those of profile.shifts that could be told."""
    return [
        _total(name, f"{says} as in the import it is compared with (if not, and meant: --no-compare)", name, None, most)
        for name, (says, most) in SHIFTS.items()
        if name in shifts
    ]


SHIFTS: dict[str, tuple[str, float]] = {
    "amount_shift": ("amounts are distributed", LARGEST_SHIFT),
    "hour_shift": ("hours of the day, UTC, are distributed", LARGEST_SHIFT),
    **{f"{name}_shift": (f"values of {name} are distributed", LARGEST_SHIFT) for name in TEXTS},
    "device_shift": ("device_id is given as often", LARGEST_SHIFT),
    "coordinates_shift": ("coordinates are given as often", LARGEST_SHIFT),
    "pace_ratio": (f"payments per day are, within a factor of {LARGEST_RATIO:g},", LARGEST_RATIO),
    "fraud_ratio": (f"the share of reported fraud is, within a factor of {LARGEST_RATIO:g},", LARGEST_RATIO),
}


def _rows(name: str, says: str, expectation: Any) -> Check:
    return Check(name, says, "rows", expectation)


def _lengths(column: str, most: int) -> Check:
    expectation = ExpectColumnValueLengthsToBeBetween(column=column, min_value=1, max_value=most)
    return _rows(f"{column}_length", f"{column} has 1 to {most} characters", expectation)


def _between(name: str, says: str, column: str, low: float | None, high: float | None, *, open: bool = False) -> Check:
    expectation = ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, strict_min=open)
    return _rows(name, says, expectation)


def _total(name: str, says: str, column: str, low: float | None, high: float | None) -> Check:
    expectation = ExpectColumnMaxToBeBetween(column=column, min_value=low, max_value=high)
    return Check(name, says, "totals", expectation)
