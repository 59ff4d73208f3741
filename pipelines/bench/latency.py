"""How long payments took, read from PostgreSQL: from the broker's timestamp to the commit."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psycopg2
import pyarrow as pa
from pyarrow import csv

from feature_repo.settings import Settings

RANGES = """
    SELECT kafka_partition, first_offset, until_offset, extract(epoch FROM committed_at) FROM ledger_ranges
    WHERE kafka_topic = %s AND committed_at >= to_timestamp(%s) ORDER BY kafka_partition, first_offset
"""
DECISIONS = """
    COPY (SELECT kafka_partition, kafka_offset, extract(epoch FROM ingested_at) FROM decisions
          WHERE kafka_topic = {topic} AND processed_at >= to_timestamp({since})) TO STDOUT (FORMAT csv)
"""


@dataclass(frozen=True)
class Latency:
    """Seconds from the broker's timestamp to the end of the deciding transaction, over `payments`."""

    payments: int
    p50: float
    p95: float
    p99: float
    max: float
    first_ingested: float  # seconds since 1970
    last_committed: float

    @property
    def per_second(self) -> float:
        """Payments decided per second between the first arrival and the last commit."""
        return self.payments / max(self.last_committed - self.first_ingested, 1e-9)


def since(settings: Settings, start: float) -> Latency | None:
    """Latency of everything decided since `start` (seconds since 1970); None where that is nothing."""
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(RANGES, (settings.topic, start))
        ranges = np.array(cursor.fetchall(), dtype=np.float64).reshape(-1, 4)
        body = io.BytesIO()
        quoted = cursor.mogrify("%s", (settings.topic,)).decode()
        cursor.copy_expert(DECISIONS.format(topic=quoted, since=float(start)), body)
    if not len(ranges) or not body.tell():
        return None
    body.seek(0)
    table = csv.read_csv(
        body,
        read_options=csv.ReadOptions(column_names=["partition", "offset", "ingested"]),
        convert_options=csv.ConvertOptions(column_types={"ingested": pa.float64()}),
    )
    ingested = table["ingested"].to_numpy()
    committed = _committed(ranges, table["partition"].to_numpy(), table["offset"].to_numpy())
    took = committed - ingested
    p50, p95, p99 = np.percentile(took, [50, 95, 99]).tolist()
    return Latency(len(took), p50, p95, p99, float(took.max()), float(ingested.min()), float(committed.max()))


def _committed(
    ranges: npt.NDArray[np.float64], partition: npt.NDArray[np.int64], offset: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The moment each decision's range was committed."""
    # one key per (partition, offset) that sorts like the ranges: offsets stay far below 2**44
    starts = ranges[:, 0] * 2.0**44 + ranges[:, 1]
    at = np.searchsorted(starts, partition * 2.0**44 + offset, side="right") - 1
    return np.asarray(ranges[at, 3])
