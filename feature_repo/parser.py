"""From raw messages to columns of payments: the one strict parser of API, stream and import.

A batch is parsed by two compiled passes (`scan` finds the fields, `decode` checks them) and a copy of the text
into Arrow columns; no payment becomes a Python object. What a message must be is in
`contracts/transactions.schema.json`, what it gets otherwise in `codes.Code`.

Decisions beyond the contract:
  identifiers are kept as they came, other text is normalised to NFC
  null is the same as not given; a missing currency is `ParseOptions.currency`
  1500.00, 1.50000 and 15e2 have at most 4 decimals: zeros at the end are none
  a fraction of a second is cut to microseconds; the leap second 23:59:60Z ending a month is the next second
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import transaction
from feature_repo.batch import Batch
from feature_repo.codes import Code
from feature_repo.errors import BadRecord
from feature_repo.json_tokens import OK
from feature_repo.rejects import Rejects, collect
from feature_repo.settings import Settings

MAX_ROWS = 1_000_000  # of one call; text offsets are 32 bits wide
MAX_BYTES = 2**31 - 8
SAMPLE = (
    b'{"transaction_id": "txn_123456", "user_id": "user_789", "amount": 1500.00, "timestamp": "2023-07-15T14:22:35Z",'
    b' "merchant": "Online Store", "location": "New York", "payment_method": "credit_card"}'
)


@dataclass(frozen=True)
class ParseOptions:
    """What a deployment decides; `feature_repo.settings` holds the values."""

    currency: str = "USD"  # of payments that name none
    pan_in_ids: bool = False  # look for card numbers in identifiers too: one random long id in ten looks like one
    future_tolerance_us: int = transaction.MAX_AHEAD_US

    @classmethod
    def of(cls, settings: Settings) -> "ParseOptions":
        return cls(settings.currency, settings.pan_in_ids, settings.future_tolerance_s * 1_000_000)


@dataclass(frozen=True)
class Parsed:
    """A batch: every input row is in `rows` or in `rejects.rows`, both ascending."""

    rows: npt.NDArray[np.int64]  # input row of each payment
    payments: pa.RecordBatch  # transaction.SCHEMA
    rejects: Rejects
    extra_fields: int  # fields outside the contract, ignored, in all payments


def parse(values: pa.Array, broker_time_us: npt.NDArray[np.int64], options: ParseOptions | None = None) -> Parsed:
    """Messages (binary or large_binary, null for a tombstone) and the broker's time of each, in microseconds.

    At most `MAX_ROWS` messages and `MAX_BYTES` bytes at a time, else ValueError.
    """
    options = options or ParseOptions()
    batch = Batch.of(values, options.currency)
    if len(broker_time_us) != len(values):
        raise ValueError(f"{len(values)} messages, but {len(broker_time_us)} broker times")
    if len(values) > MAX_ROWS or len(batch.data) > MAX_BYTES:
        raise ValueError(f"{len(values)} messages of {len(batch.data)} bytes are too many to parse at a time")
    batch.scan()
    batch.decode(broker_time_us, options.future_tolerance_us, options.pan_in_ids, options.currency)
    batch.settle(options.pan_in_ids)
    rows = np.flatnonzero(batch.findings.number == OK)
    extra_fields = int(batch.findings.extra[rows].sum())
    return Parsed(rows, batch.payments(rows), collect(batch.data, batch.offsets, batch.findings), extra_fields)


def parse_one(value: bytes, broker_time_us: int, options: ParseOptions | None = None) -> pa.RecordBatch:
    """One payment as a batch of one row. Raises BadRecord."""
    parsed = parse(pa.array([value], pa.binary()), np.array([broker_time_us], np.int64), options)
    rejects = parsed.rejects
    for code, detail, field in zip(rejects.codes, rejects.details, rejects.fields, strict=True):
        raise BadRecord(code, detail, status=Code(code).status, field=field)
    return parsed.payments


def warm() -> None:
    """Compile, or load from numba's disk cache, all that `parse` runs. Seconds when cold."""
    parse(pa.array([SAMPLE, None], pa.binary()), np.zeros(2, np.int64), ParseOptions(future_tolerance_us=2**62))
