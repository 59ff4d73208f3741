"""The payment contract: what a message on topic `transactions` holds, as columns.

A payment is one JSON object (JSON Schema in `contracts/`). After parsing, and in every Parquet
history, payments are columns of `SCHEMA`; nothing between Kafka and PostgreSQL holds a payment
as a Python object.
"""

from datetime import UTC, datetime

import pyarrow as pa

REQUIRED = ("transaction_id", "user_id", "amount", "timestamp", "merchant", "location", "payment_method")
OPTIONAL = ("currency", "merchant_category", "channel", "device_id", "latitude", "longitude")

MAX_ID_CHARACTERS = 128
MAX_TEXT_CHARACTERS = 256
MAX_PAYLOAD_BYTES = 65_536
MAX_DEPTH = 16
MAX_KEYS = 1_000
MAX_AMOUNT = 1e12  # in the configured currency's unit
AMOUNT_DECIMALS = 4
MAX_AHEAD_US = 5 * 60 * 1_000_000  # a timestamp further ahead of the broker's clock is TIME_FUTURE

# `timestamp` is called event_time once it is parsed: microseconds since 1970, UTC.
SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("merchant", pa.string(), nullable=False),
        pa.field("location", pa.string(), nullable=False),
        pa.field("payment_method", pa.string(), nullable=False),
        pa.field("currency", pa.string()),
        pa.field("merchant_category", pa.string()),
        pa.field("channel", pa.string()),
        pa.field("device_id", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
    ]
)

# What a history adds to the contract: when the payment reached us, and what was learnt about it later.
HISTORY_SCHEMA = (
    SCHEMA.append(pa.field("arrival_time", pa.timestamp("us", tz="UTC"), nullable=False))
    .append(pa.field("is_fraud", pa.bool_()))
    .append(pa.field("label_time", pa.timestamp("us", tz="UTC")))
)


def rfc3339(time: datetime) -> str:
    """A time as every answer of ours writes it: UTC, microseconds, `Z`, four digits of year."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
