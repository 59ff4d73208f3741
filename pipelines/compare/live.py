"""Payments of the live stream that carry the scores of both versions, with the labels that have arrived."""

import io
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.csv

from feature_repo.settings import Settings
from pipelines.compare.paired import Payments
from pipelines.live import reading

# Whoever of the two was champion then. A payment's newest label counts; of two of one moment, the one that says fraud.
BOTH = """
    SELECT CASE WHEN d.model_version = %(a)s THEN d.anomaly_score ELSE d.challenger_score END AS a,
        CASE WHEN d.model_version = %(a)s THEN d.challenger_score ELSE d.anomaly_score END AS b,
        l.is_fraud, hashtextextended(d.user_id, 0) AS user_hash,
        floor(extract(epoch FROM d.ingested_at) / 86400)::bigint AS day, d.amount::float8 AS amount
    FROM decisions d LEFT JOIN (
        SELECT DISTINCT ON (transaction_id) transaction_id, is_fraud FROM labels
        ORDER BY transaction_id, label_time DESC, is_fraud DESC
    ) l USING (transaction_id)
    WHERE d.outcome = 'scored' AND d.challenger_score IS NOT NULL
        AND (d.model_version, d.challenger_version) IN ((%(a)s, %(b)s), (%(b)s, %(a)s))
        AND d.ingested_at >= coalesce(%(first)s::date, '-infinity') AT TIME ZONE 'UTC'
        AND d.ingested_at < coalesce(%(until)s::date, 'infinity') AT TIME ZONE 'UTC'
"""
_TYPES = {
    "a": pa.float32(), "b": pa.float32(), "is_fraud": pa.bool_(), "user_hash": pa.int64(), "day": pa.int64(),
    "amount": pa.float64(),
}  # fmt: skip


@dataclass(frozen=True)
class Live:
    payments: Payments
    labelled: int  # payments with any label


def read(settings: Settings, a: str, b: str, first: date | None, last: date | None) -> Live | None:
    """Payments that arrived on the days `first` to `last` (inclusive, UTC); None where none has both scores.

    As text of about 60 bytes a payment, never as Python rows. Raises StoreUnavailable.
    """
    values = {"a": a, "b": b, "first": first, "until": last + timedelta(days=1) if last else None}
    content = io.BytesIO()
    with reading(settings) as connection, connection.cursor() as cursor:
        query = cursor.mogrify(BOTH, values).decode()
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT csv)", content)
    if not content.tell():
        return None
    content.seek(0)
    table = pyarrow.csv.read_csv(
        content,
        pyarrow.csv.ReadOptions(column_names=list(_TYPES)),
        convert_options=pyarrow.csv.ConvertOptions(column_types=_TYPES, true_values=["t"], false_values=["f"]),
    )
    fraud = table["is_fraud"]
    columns = {name: np.ascontiguousarray(table[name].to_numpy()) for name in ("a", "b", "day", "amount")}
    known = np.asarray(fraud.fill_null(False).to_numpy(), np.bool_)
    return Live(Payments(fraud=known, user=table["user_hash"].to_numpy(), **columns), len(fraud) - fraud.null_count)
