"""Documents of the search index against the decisions: by count, and by id where the counts differ."""

import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
from confluent_kafka import KafkaException, TopicPartition
from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch

from feature_repo.conditions import INDEXERS
from feature_repo.errors import DependencyDown, StoreUnavailable
from feature_repo.settings import Settings
from infra.elasticsearch.provision import ALIAS
from pipelines import log
from pipelines.live import reading
from pipelines.reconcile.findings import Findings, Reconciled
from pipelines.reconcile.outcomes import Seen
from pipelines.requests import Cursor
from streaming import indexer
from streaming.decisions import decision_id, row_id
from streaming.watch import Span
from training.data import midnight

SETTLE_S = 60.0  # how long what is on its way may take
POLL_S = 0.5
ANSWER_S = 60.0
BY_ID = 5_000  # offsets compared by id at once; below Elasticsearch's limit of 10,000 hits
ENOUGH = 1_000  # documents named as missing or surplus in a day and partition

UNPUBLISHED = """
    SELECT kafka_partition, first_offset FROM ledger_ranges
    WHERE kafka_topic = %s AND published_at IS NULL ORDER BY 1, 2
"""
COUNT = """
    SELECT count(*) FROM decisions
    WHERE id >= %s AND id < %s AND kafka_topic = %s AND revision = 1 AND ingested_at >= %s AND ingested_at < %s
"""
OFFSETS = COUNT.replace("count(*)", "kafka_offset")
PARKED = "SELECT code, count(*) FROM parked_documents WHERE starts_with(decision_id, %s) GROUP BY 1"
PARKED_OF = "SELECT decision_id FROM parked_documents WHERE decision_id = ANY(%s)"


def compare(
    settings: Settings, seen: Seen, first: date | None, last: date | None, found: Findings, done: Reconciled
) -> None:
    """The days `first` to `last` of what was seen. Raises StoreUnavailable and DependencyDown."""
    if not _settled(settings, seen, found):
        return
    try:
        with (
            Elasticsearch(settings.elasticsearch_url, request_timeout=ANSWER_S, max_retries=0) as client,
            reading(settings) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(PARKED, (f"{settings.topic}-",))
            done.parked = dict(cursor.fetchall())
            client.indices.refresh(index=ALIAS, ignore_unavailable=True)
            comparison = _Comparison(settings, client, cursor, found)
            days = {day for day, _ in seen.documents} | comparison.days()
            for day in sorted(days):
                if (first is None or day >= first) and (last is None or day <= last):
                    for partition, until in sorted(seen.until.items()):
                        done.documents += comparison.day(day, partition, until, seen.documents[day, partition])
            comparison.revisions(seen)
    except TransportError as error:
        raise StoreUnavailable("Elasticsearch", settings.elasticsearch_url, error.message) from error
    except ApiError as error:
        cause = f"{error.status_code} {error.message}"
        raise StoreUnavailable("Elasticsearch", settings.elasticsearch_url, cause) from error


# ---- what is on its way -------------------------------------------------------------------------------


def _settled(
    settings: Settings,
    seen: Seen,
    found: Findings,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until all that was seen is published, then until the indexer took what the topic holds by then."""
    deadline = clock() + SETTLE_S
    while waiting := _unpublished(settings, seen):
        if clock() > deadline:
            found.add("UNPUBLISHED", *waiting)
            return False
        sleep(POLL_S)
    topic = settings.model_copy(update={"topic": indexer.TOPIC})
    ends = log.kept(topic)
    while behind := _behind(topic, ends):
        if clock() > deadline:
            found.add("INDEXER_BEHIND", f"{behind} messages", count=behind)
            return False
        sleep(POLL_S)
    return True


def _unpublished(settings: Settings, seen: Seen) -> list[str]:
    with reading(settings) as connection, connection.cursor() as cursor:
        cursor.execute(UNPUBLISHED, (settings.topic,))
        ranges = cursor.fetchall()
    return [f"{settings.topic}-{number} from {first}" for number, first in ranges if first < seen.until.get(number, 0)]


def _behind(topic: Settings, ends: dict[int, Span]) -> int:
    """Messages below `ends` that the indexer's group has not committed."""
    with log.consumer(topic, INDEXERS) as consumer:
        try:
            committed = consumer.committed([TopicPartition(topic.topic, number) for number in ends], timeout=ANSWER_S)
        except KafkaException as error:
            raise DependencyDown("Kafka", topic.kafka_bootstrap, error.args[0].str()) from error
    return sum(max(ends[at.partition][1] - max(at.offset, ends[at.partition][0]), 0) for at in committed)


# ---- counts, then ids ---------------------------------------------------------------------------------


class _Comparison:
    def __init__(self, settings: Settings, client: Elasticsearch, cursor: Cursor, found: Findings) -> None:
        self._settings = settings
        self._client = client
        self._cursor = cursor
        self._found = found
        self._named = 0  # of the day and partition under way

    def days(self) -> set[date]:
        """Those with a search index."""
        names = self._client.indices.get(index=f"{ALIAS}-*", features="aliases")
        return {date.fromisoformat(name.removeprefix(f"{ALIAS}-").replace(".", "-")) for name in names}

    def day(self, day: date, partition: int, until: int, decisions: int) -> int:
        """Compare one day of a partition below offset `until`; answers how many documents there are."""
        documents = self._documents(day, partition, 0, until)
        self._named = 0
        if documents != decisions:
            self._narrow(day, partition, 0, until)
        return documents

    def _narrow(self, day: date, partition: int, low: int, high: int) -> None:
        """Halve what differs until it can be compared by id."""
        if self._named >= ENOUGH:
            return
        if high - low <= BY_ID:
            self._by_id(day, partition, low, high)
            return
        middle = (low + high) // 2
        for start, end in ((low, middle), (middle, high)):
            if self._documents(day, partition, start, end) != self._decisions(day, partition, start, end):
                self._narrow(day, partition, start, end)

    def _by_id(self, day: date, partition: int, low: int, high: int) -> None:
        self._cursor.execute(OFFSETS, self._window(day, partition, low, high))
        decided = {decision_id(self._settings.topic, partition, offset) for (offset,) in self._cursor.fetchall()}
        answer = self._client.search(
            index=_index(day),
            query=self._query(partition, low, high),
            size=BY_ID,
            source=False,
            ignore_unavailable=True,
        )
        indexed = {hit["_id"] for hit in answer["hits"]["hits"]}
        missing = decided - indexed
        if missing:
            self._cursor.execute(PARKED_OF, (sorted(missing),))
            missing -= {identity for (identity,) in self._cursor.fetchall()}
        self._found.add("DOCUMENT_MISSING", *sorted(missing))
        self._found.add("DOCUMENT_SURPLUS", *sorted(indexed - decided))
        self._named += len(missing) + len(indexed - decided)

    def revisions(self, seen: Seen) -> None:
        """What has a later revision is indexed in it."""
        for partition, offsets in seen.revised.items():
            wanted = list(offsets.items())
            for start in range(0, len(wanted), BY_ID):
                some = wanted[start : start + BY_ID]
                names = [decision_id(self._settings.topic, partition, offset) for offset, _ in some]
                docs: list[dict[str, Any]] = [
                    {"_index": _index(day), "_id": name, "_source": ["revision"]}
                    for name, (_, (_, day)) in zip(names, some, strict=True)
                ]
                answers = self._client.mget(docs=docs)["docs"]
                for name, (_, (revision, _)), answer in zip(names, some, answers, strict=True):
                    if answer.get("found") and answer["_source"]["revision"] < revision:
                        self._found.add("DOCUMENT_OUTDATED", name)

    def _documents(self, day: date, partition: int, low: int, high: int) -> int:
        query = self._query(partition, low, high)
        return int(self._client.count(index=_index(day), query=query, ignore_unavailable=True)["count"])

    def _decisions(self, day: date, partition: int, low: int, high: int) -> int:
        self._cursor.execute(COUNT, self._window(day, partition, low, high))
        ((count,),) = self._cursor.fetchall()
        return int(count)

    def _query(self, partition: int, low: int, high: int) -> dict[str, Any]:
        return {
            "bool": {
                "filter": [
                    {"term": {"kafka_topic": self._settings.topic}},
                    {"term": {"kafka_partition": partition}},
                    {"range": {"kafka_offset": {"gte": low, "lt": high}}},
                ]
            }
        }

    def _window(self, day: date, partition: int, low: int, high: int) -> tuple[Any, ...]:
        first, end = row_id(partition, np.array([low, high]), 0).tolist()
        return first, end, self._settings.topic, midnight(day), midnight(day + timedelta(days=1))


def _index(day: date) -> str:
    return f"{ALIAS}-{day:%Y.%m.%d}"
