"""Counts of decisions, in PostgreSQL; and in Kafka what waits."""

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api.postgres import Database
from api.transactions.repository import CURRENT, RECENT, earliest
from feature_repo.conditions import INDEXERS
from feature_repo.errors import DependencyDown

COUNTS = f"""SELECT date_trunc('hour', d.event_time) AS hour, d.outcome, d.decision, d.model_version, d.is_anomaly,
    d.anomaly_reasons, count(*) AS decisions
FROM decisions d
WHERE d.event_time >= %(since)s AND d.event_time < %(until)s AND d.ingested_at >= %(arrived)s
  AND d.outcome <> 'duplicate' AND {CURRENT}
GROUP BY 1, 2, 3, 4, 5, 6"""

POSITIONS = "SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %(topic)s"
# The newest of each partition, by its key: there is no index of times.
RANGES = """SELECT r.* FROM ledger l, LATERAL (
    SELECT kafka_partition, first_offset, records, scored + unscored + duplicates AS decisions, committed_at
    FROM ledger_ranges r WHERE r.kafka_topic = l.kafka_topic AND r.kafka_partition = l.kafka_partition
    ORDER BY first_offset DESC LIMIT %(ranges)s) r
WHERE l.kafka_topic = %(topic)s"""
DECIDED = """WITH firsts (kafka_partition, first_offset) AS (SELECT * FROM unnest(%(partitions)s, %(firsts)s)),
found AS MATERIALIZED (
    SELECT d.outcome, d.decision, d.model_version, d.is_anomaly, d.anomaly_reasons, extract(epoch FROM (
        SELECT r.committed_at FROM ledger_ranges r
        WHERE r.kafka_topic = d.kafka_topic AND r.kafka_partition = d.kafka_partition
            AND r.first_offset <= d.kafka_offset
        ORDER BY r.first_offset DESC LIMIT 1) - d.ingested_at)::float8 AS age
    FROM firsts f JOIN decisions d ON d.id >= (f.kafka_partition::bigint << 48) + (f.first_offset << 4)
        AND d.id < (f.kafka_partition::bigint + 1) << 48
    WHERE d.kafka_topic = %(topic)s AND d.ingested_at >= %(arrived)s AND d.revision = 1
)
SELECT (SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY age) FROM found) AS age,
    (SELECT json_agg(g) FROM (
        SELECT outcome, decision, model_version, is_anomaly, anomaly_reasons, count(*) AS decisions
        FROM found GROUP BY 1, 2, 3, 4, 5) g) AS groups"""
KAFKA_S = 2.0
INDEXED = "decisions"  # the topic that the indexers read


class StatsRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Decisions by hour of event time, outcome, decision, version, anomaly and reasons."""
        return self._database.rows(COUNTS, {"since": since, "until": until, "arrived": earliest(since)})

    def positions(self, topic: str) -> dict[int, int]:
        """First offset without an outcome, by partition."""
        rows = self._database.rows(POSITIONS, {"topic": topic})
        return {row["kafka_partition"]: row["committed_until"] for row in rows}

    def ranges(self, topic: str, newest: int) -> list[dict[str, Any]]:
        """The newest commits of each partition, in no order."""
        return self._database.rows(RANGES, {"topic": topic, "ranges": newest})

    def decided(self, topic: str, firsts: Mapping[int, int], now: datetime) -> dict[str, Any]:
        """Ages in seconds (p50, p95, p99) and counts of what was decided from these offsets on."""
        values = {"topic": topic, "partitions": list(firsts), "firsts": list(firsts.values()), "arrived": now - RECENT}
        return self._database.rows(DECIDED, values)[0]


class Offsets:
    """Ends of topics in Kafka, asked by one client that is kept. Blocks; raises DependencyDown."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._lock = threading.Lock()
        self._client: Any = None

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """Of each partition the first offset and the one after the last."""
        from confluent_kafka import KafkaException, TopicPartition

        with self._lock:
            try:
                client = self._consumer()
                partitions = client.list_topics(topic, timeout=KAFKA_S).topics[topic].partitions
                return {
                    partition: client.get_watermark_offsets(TopicPartition(topic, partition), timeout=KAFKA_S)
                    for partition in partitions
                }
            except KafkaException as error:
                raise DependencyDown("Kafka", self._bootstrap, error.args[0].str()) from error

    def unindexed(self) -> int:
        """Decisions on their topic that no indexer has taken."""
        from confluent_kafka import KafkaException, TopicPartition

        ends = self.ends(INDEXED)
        with self._lock:
            try:
                places = [TopicPartition(INDEXED, partition) for partition in ends]
                taken = {p.partition: p.offset for p in self._consumer().committed(places, timeout=KAFKA_S)}
            except KafkaException as error:
                raise DependencyDown("Kafka", self._bootstrap, error.args[0].str()) from error
        return after(ends, taken)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _consumer(self) -> Any:
        from confluent_kafka import Consumer

        if self._client is None:  # it subscribes to nothing, so the group never hears of it
            config = {"bootstrap.servers": self._bootstrap, "group.id": INDEXERS, "client.id": "vigil-api"}
            self._client = Consumer({**config, "log_level": 0})
        return self._client


def after(ends: Mapping[int, tuple[int, int]], positions: Mapping[int, int]) -> int:
    """Records behind these positions; what Kafka no longer keeps waits for nobody."""
    return sum(max(0, high - max(positions.get(partition, 0), low)) for partition, (low, high) in ends.items())
