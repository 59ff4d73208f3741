"""What the stream counts and looks at, for Prometheus.

Counters hold what this process saw done, from its start on; what is true of all payments is in PostgreSQL.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from confluent_kafka import Consumer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from feature_repo.settings import Settings
from feature_repo.switches import INTAKE, PAUSED, RULES_ONLY, SCORING
from streaming.decisions import OUTCOMES, UNSCORED_REASONS
from streaming.ledger import Ledger
from streaming.partition import Taken
from streaming.records import REKEYED
from streaming.reporter import Reporter
from streaming.states import StateStore
from streaming.watch import waiting, watched

if TYPE_CHECKING:
    from streaming.job import Job

SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class StreamMetrics:
    """Of one job, told by its driver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"vigil_stream_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"vigil_stream_{name}", what, labels, registry=registry)

        self._outcomes = counter("outcomes", "payments decided, by outcome", "outcome")
        self._unscored = counter("unscored", "payments decided without a score, by reason", "reason")
        self._dead_letters = counter("dead_letters", "records that are no payment, by code", "code")
        self._rekeyed = counter("rekeyed", "records sent on to the partition of their user")
        self._late = counter("late", "payments behind the newest event of their user")
        self._flagged = counter("flagged", "payments that are anomalies")
        self._holds = counter("holds", "times a batch had to wait for a server that is away", "dependency")
        self._batch = Histogram("vigil_stream_batch_seconds", "of one batch", buckets=SECONDS, registry=registry)
        self._steps = Summary(
            "vigil_stream_step_seconds", "of one step of one partition's range", ["step"], registry=registry
        )
        self._age = gauge("decision_age_seconds", "age of the oldest payment of the last batch when it was decided")
        self._ages = Histogram(
            "vigil_stream_range_age_seconds", "age of a range's oldest payment when it was decided", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._model = gauge("model_info", "1 for the version that scored last", "model_version")
        self.lag = gauge("lag_records", "records of a partition without an outcome", "partition")
        self.unpublished = gauge("unpublished_ranges", "ranges that are decided and not yet on Kafka")
        self.unpublished_age = gauge("unpublished_age_seconds", "since the oldest of them was decided")
        self.state_keys = gauge("state_keys", "keys of the online store: a user's state each, and few others")
        self.state_bytes = gauge("state_bytes", "memory of the online store")
        self.state_limit = gauge("state_limit_bytes", "memory at which the online store refuses to grow")
        self.breaker_open = gauge("breaker_open", "1 while work goes on without what is named", "dependency")
        self.paused = gauge("paused", "1 while an operator keeps batches from beginning")
        self.rules_only = gauge("rules_only", "1 while an operator has payments decided without a score")
        self.looked = gauge("looked_timestamp_seconds", "when lag, publishing and states were last looked at")
        for outcome in OUTCOMES:
            self._outcomes.labels(outcome)
        for reason in UNSCORED_REASONS:
            self._unscored.labels(reason)

    def ranges(self, done: Sequence[Taken], now: float) -> None:
        """What an attempt at a batch got done; ranges that failed count when they are taken again."""
        for result in done:
            for name, count in result.outcomes.items():
                if name in OUTCOMES:
                    self._outcomes.labels(name).inc(count)
                elif name == REKEYED:
                    self._rekeyed.inc(count)
                else:
                    self._dead_letters.labels(name).inc(count)
            for reason, count in result.unscored.items():
                self._unscored.labels(reason).inc(count)
            self._late.inc(result.late)
            self._flagged.inc(result.flagged)
            for step, seconds in result.seconds.items():
                self._steps.labels(step).observe(seconds)
        fresh = [result for result in done if result.outcomes]
        ages = [max(0.0, now - result.oldest / 1e6) for result in fresh]
        for age in ages:
            self._ages.observe(age)
        if ages:
            self._age.set(max(ages))
        scored = [result.model_version for result in fresh if result.model_version]
        if scored:
            self._model.clear()
            self._model.labels(scored[-1]).set(1)

    def batch(self, seconds: float) -> None:
        self._batch.observe(seconds)

    def hold(self, dependency: str) -> None:
        self._holds.labels(dependency).inc()


@contextmanager
def watching(settings: Settings, metrics: StreamMetrics, job: "Job", reporter: Reporter) -> Iterator[None]:
    """For as long as the block lasts, `metrics` tell lag, what is unpublished, how large the states are and how the
    switches stand; `reporter` tells what keeps the job from its whole work."""
    ledger, states = Ledger(settings.postgres_dsn, settings.topic), StateStore(settings.redis_url)

    def look(consumer: Consumer) -> None:
        for breaker in (job.model_service, job.sinks):
            metrics.breaker_open.labels(breaker.name).set(breaker.open)
        standing = ledger.switches()
        metrics.paused.set(standing[INTAKE] == PAUSED)
        metrics.rules_only.set(standing[SCORING] == RULES_ONLY)
        unpublished, age_s = ledger.unpublished()
        metrics.unpublished.set(unpublished)
        metrics.unpublished_age.set(age_s)
        job.look_after(unpublished, age_s)
        reporter.say(job.amiss(unpublished, age_s))
        decided = ledger.positions()  # first: what arrives meanwhile is lag, never less than none
        for partition, count in waiting(consumer, settings.topic, settings.kafka_bootstrap, decided).items():
            metrics.lag.labels(partition).set(count)
        size = states.size()
        metrics.state_keys.set(size.keys)
        metrics.state_bytes.set(size.bytes)
        metrics.state_limit.set(size.limit)

    with closing(ledger), watched(settings, "vigil-stream-watch", look, metrics.looked):
        yield
