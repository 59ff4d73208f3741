"""What is counted over time: payments by merchant and by payment method, and bursts of activity by user.

Both are queries of Spark's own over topic `decisions`, with state of their own; the road to a decision uses neither.

A payment's time here is its event time, or the broker's where that is earlier. A payment stamped ahead would else
move the watermark ahead for everybody, and what came in the minutes after it would be too late. With the cap the
watermark never passes the broker's clock; such a payment is counted when it came.

A payment that lies more than LATENESS behind the newest of an earlier batch is late: not counted, but its number is
kept. A decision sent again is counted once, and so is one that was scored later (its first revision counts).
Payments in another currency are left out, as amounts of several are never summed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, GroupedData

LATENESS = "5 seconds"
WINDOW = "1 minute"
PAUSE = "5 minutes"  # without a payment of the user, and a burst is over
BURST = 2  # payments; one alone is no burst, and most would be

# Of the contract `decisions`, what is read here; Spark's parser skips the rest.
_MESSAGE = (
    "decision_id STRING, revision INT, ingested_at TIMESTAMP, user_id STRING, amount DECIMAL(18, 4), currency STRING, "
    "event_time TIMESTAMP, merchant STRING, payment_method STRING, outcome STRING, is_anomaly BOOLEAN"
)


def payments(messages: "DataFrame", currency: str) -> "DataFrame":
    """Decided payments, each once. `messages` has a column `value` of decision documents."""
    from pyspark.sql import functions as f

    return (
        messages.select(f.from_json(f.col("value").cast("string"), _MESSAGE).alias("decision"))
        .select("decision.*")
        .where((f.col("revision") == 1) & (f.col("outcome") != "duplicate") & (f.col("currency") == currency))
        .select(
            *("decision_id", "user_id", "merchant", "payment_method", "amount"),
            f.least("event_time", "ingested_at").alias("at"),
            (f.col("outcome") == "scored").cast("int").alias("scored"),
            f.coalesce("is_anomaly", f.lit(False)).cast("int").alias("flagged"),
        )
        .withWatermark("at", LATENESS)
        .dropDuplicatesWithinWatermark(["decision_id"])
    )


def by_minute(payments: "DataFrame") -> "DataFrame":
    """One row per merchant and minute, and per payment method and minute. For output mode update."""
    from pyspark.sql import functions as f

    kinds = [f.struct(f.lit(kind).alias("kind"), f.col(kind).alias("key")) for kind in ("merchant", "payment_method")]
    keyed = payments.select("at", "amount", "scored", "flagged", f.explode(f.array(*kinds)).alias("by"))
    counted = keyed.groupBy(f.window("at", WINDOW).alias("window"), "by.kind", "by.key")
    return _measured(counted, f.col("kind"), f.col("key"))


def bursts(payments: "DataFrame") -> "DataFrame":
    """One row per burst of a user, once it is over. For output mode append."""
    from pyspark.sql import functions as f

    counted = payments.groupBy(f.session_window("at", PAUSE).alias("window"), "user_id")
    return _measured(counted, f.lit("user").alias("kind"), f.col("user_id").alias("key")).where(f"payments >= {BURST}")


def _measured(counted: "GroupedData", kind: "Column", key: "Column") -> "DataFrame":
    """The columns of table `payment_windows`, in its order."""
    from pyspark.sql import functions as f

    measures = (
        f.count("*").alias("payments"),
        *(f.sum(name).alias(name) for name in ("scored", "flagged", "amount")),
    )
    bounds = (f.col("window.start").alias("started_at"), f.col("window.end").alias("ended_at"))
    return counted.agg(*measures).select(kind, key, *bounds, "payments", "scored", "flagged", "amount")
