"""What is counted, and how a process without a web server shows it."""

import urllib.request
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.errors import BadConfiguration
from feature_repo.exposition import served
from infra.local.ports import HOST, free_port
from pipelines.drift.judge import ALERT_RATE, SCORE, Alarm, Day, Drift, Reading
from pipelines.metrics import DONE, FAILED, LifecycleMetrics
from pipelines.parity.recompute import Logged, Mismatch
from pipelines.parity.run import NOT_RETAINED, Parity
from pipelines.reconcile.findings import Finding, Reconciled
from streaming.metrics import StreamMetrics
from streaming.partition import Taken
from streaming.watch import Span
from tests.unit.test_road import NOW_US, World, payment

DAY = date(2026, 11, 20)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_a_range_is_counted_by_what_became_of_its_records(registry: CollectorRegistry) -> None:
    metrics = StreamMetrics(registry)
    values = [
        payment(30),
        b"{",
        None,
        payment(30),
        payment(2),
        payment(3, currency="EUR"),
        payment(40, amount=20_000.0),
    ]
    metrics.ranges([World().take(values)], NOW_US / 1e6 + 3)
    value = registry.get_sample_value
    assert value("vigil_stream_outcomes_total", {"outcome": "scored"}) == 3
    assert value("vigil_stream_outcomes_total", {"outcome": "unscored"}) == 1
    assert value("vigil_stream_outcomes_total", {"outcome": "duplicate"}) == 1
    assert value("vigil_stream_unscored_total", {"reason": "CURRENCY_UNSUPPORTED"}) == 1
    assert value("vigil_stream_unscored_total", {"reason": "MODEL_DOWN"}) == 0
    assert value("vigil_stream_dead_letters_total", {"code": "NOT_JSON"}) == 1
    assert value("vigil_stream_late_total") == 1, "the second payment is behind the first"
    assert value("vigil_stream_flagged_total") == 1
    assert value("vigil_stream_decision_age_seconds") == pytest.approx(3)
    assert value("vigil_stream_model_info", {"model_version": "7"}) == 1
    assert value("vigil_stream_step_seconds_count", {"step": "commit"}) == 1
    again = World()
    again.take(values)
    metrics.ranges([again.take(values)], NOW_US / 1e6 + 60)
    assert value("vigil_stream_outcomes_total", {"outcome": "scored"}) == 3, "taken again, decided once"
    assert value("vigil_stream_decision_age_seconds") == pytest.approx(3)


def test_only_the_version_that_scored_last_is_shown(registry: CollectorRegistry) -> None:
    metrics = StreamMetrics(registry)
    for version in ("7", "8"):
        metrics.ranges([Taken(0, 0, 1, Counter(scored=1), model_version=version)], 0.0)
    assert registry.get_sample_value("vigil_stream_model_info", {"model_version": "8"}) == 1
    assert registry.get_sample_value("vigil_stream_model_info", {"model_version": "7"}) is None


@pytest.mark.parametrize(("position", "lag"), [(0, 15), (5, 15), (12, 8), (20, 0), (25, 0), (-1001, 15)])
def test_lag_counts_what_kafka_still_holds(position: int, lag: int) -> None:
    assert Span(5, 20).after(position) == lag


def drifting(*strengths: float | None) -> list[Day]:
    return [
        Day(DAY + timedelta(days=n), 500, {SCORE: Reading(0.1 * n, s, 500), ALERT_RATE: Reading(0.01, s, 500)})
        for n, s in enumerate(strengths)
    ]


def test_drift_is_that_of_the_newest_judged_day_and_of_one_version(registry: CollectorRegistry) -> None:
    metrics = LifecycleMetrics(registry)
    value = registry.get_sample_value
    metrics.drift("1", Drift(drifting(None)))
    assert value("vigil_drift_alarm", {"model_version": "1"}) is None
    alarm = Alarm(DAY + timedelta(days=1), SCORE, 0.1, 3.5, 1)
    metrics.drift("1", Drift(drifting(0.1, 3.5, None), [alarm]))
    assert value("vigil_drift_alarm", {"model_version": "1"}) == 1
    assert value("vigil_drift_score_psi", {"model_version": "1"}) == pytest.approx(0.1)
    metrics.drift("2", Drift(drifting(0.1, 3.5, 0.2), [alarm]))
    assert value("vigil_drift_alarm", {"model_version": "2"}) == 0, "that alarm is over"
    assert value("vigil_drift_alarm", {"model_version": "1"}) is None


def test_parity_that_checked_nothing_shows_no_rate(registry: CollectorRegistry) -> None:
    metrics = LifecycleMetrics(registry)
    value = registry.get_sample_value
    metrics.parity(Parity(0, [], {NOT_RETAINED: 4}))
    rate = value("vigil_parity_mismatch_rate")
    assert rate is not None and rate != rate
    assert value("vigil_parity_unchecked_total") == 4
    mismatch = Mismatch(Logged(0, 1, "t1", "u1", False, (), np.zeros(0, "<f4"), None), "the log holds no payment there")
    metrics.parity(Parity(10, [mismatch]))
    metrics.parity(Parity(10, []))
    assert value("vigil_parity_mismatched_total") == 1
    assert value("vigil_parity_mismatch_rate") == 0


def test_findings_stand_until_the_next_look(registry: CollectorRegistry) -> None:
    metrics = LifecycleMetrics(registry)

    def found(code: str) -> float | None:
        return registry.get_sample_value("vigil_reconcile_findings", {"code": code})

    finding = Finding("OUTCOME_MISSING", "PostgreSQL", "3 records", "restore", 3)
    metrics.reconciled(Reconciled("transactions", findings=[finding]))
    assert found("OUTCOME_MISSING") == 3
    metrics.reconciled(Reconciled("transactions"))
    assert found("OUTCOME_MISSING") is None


def test_a_failed_job_has_no_time_of_success(registry: CollectorRegistry) -> None:
    metrics = LifecycleMetrics(registry)
    metrics.job("parity", FAILED)
    assert registry.get_sample_value("vigil_lifecycle_jobs_total", {"task": "parity", "outcome": FAILED}) == 1
    assert registry.get_sample_value("vigil_lifecycle_job_success_timestamp_seconds", {"task": "parity"}) is None
    metrics.job("parity", DONE)
    assert registry.get_sample_value("vigil_lifecycle_job_success_timestamp_seconds", {"task": "parity"})


def test_metrics_are_served_until_the_block_ends_and_a_taken_port_is_named() -> None:
    port = free_port()
    with served(HOST, port) as registry:
        StreamMetrics(registry)
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as page:
            names = {family.name for family in text_string_to_metric_families(page.read().decode())}
        assert {"vigil_stream_outcomes", "process_cpu_seconds", "process_resident_memory_bytes"} <= names
        with pytest.raises(BadConfiguration, match=str(port)), served(HOST, port):
            pass
    with served(HOST, port):
        pass
