"""What the lifecycle worker counts and finds, for Prometheus."""

import time
from datetime import UTC, datetime
from datetime import time as clock_time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:  # seconds to import
    from pipelines.drift.judge import Drift
    from pipelines.parity.run import Parity
    from pipelines.reconcile.findings import Reconciled

DONE, WAITS, FAILED = "done", "waits", "failed"  # what becomes of a daily job


class LifecycleMetrics:
    """Of one worker. Counters begin at 0 with it; what was found stands until it is found anew."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"vigil_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"vigil_{name}", what, labels, registry=registry)

        self._requests = counter("lifecycle_requests", "requests seen through, by outcome", "action", "outcome")
        self._jobs = counter("lifecycle_jobs", "daily jobs tried, by outcome", "task", "outcome")
        self._succeeded = gauge("lifecycle_job_success_timestamp_seconds", "when a daily job last succeeded", "task")
        self._labels = counter("labels_taken", "labels taken in from their topic; one sent again counts again")
        self._refused = counter("labels_refused", "messages of that topic that are no label")
        self._labelled = gauge("labels_timestamp_seconds", "when labels were last taken in")
        self._checked = counter("parity_checked", "decisions recomputed from the raw payments")
        self._mismatched = counter("parity_mismatched", "of them, those whose features came out otherwise")
        self._unchecked = counter("parity_unchecked", "sampled decisions that could not be recomputed")
        self._mismatch_rate = gauge("parity_mismatch_rate", "mismatched over checked, of the last check")
        self._findings = gauge("reconcile_findings", "of the last look, by what the stores disagree about", "code")
        self._alarm = gauge("drift_alarm", "1 where the newest judged day has an alarm", "model_version")
        self._alert_rate = gauge("drift_alert_rate", "share of alerts on the newest judged day", "model_version")
        self._score_psi = gauge(
            "drift_score_psi", "population stability index of that day's scores, beyond chance", "model_version"
        )
        self._judged = gauge("drift_judged_timestamp_seconds", "when the newest judged day began", "model_version")
        self._mismatch_rate.set(float("nan"))  # until something was checked

    def request(self, action: str, outcome: str) -> None:
        self._requests.labels(action, outcome).inc()

    def job(self, name: str, outcome: str) -> None:
        self._jobs.labels(name, outcome).inc()
        if outcome == DONE:
            self._succeeded.labels(name).set(time.time())

    def labels(self, taken: int, refused: int) -> None:
        self._labels.inc(taken)
        self._refused.inc(refused)
        if taken:
            self._labelled.set(time.time())

    def parity(self, found: "Parity") -> None:
        self._checked.inc(found.checked)
        self._mismatched.inc(len(found.mismatches))
        self._unchecked.inc(sum(found.unchecked.values()))
        if found.mismatch_rate is not None:
            self._mismatch_rate.set(found.mismatch_rate)

    def reconciled(self, done: "Reconciled") -> None:
        self._findings.clear()
        for finding in done.findings:
            self._findings.labels(finding.code).set(finding.count)

    def drift(self, version: str, found: "Drift") -> None:
        """Of the champion: another version's numbers go. Nothing changes where no day could be judged."""
        from pipelines.drift.judge import ALERT_RATE, SCORE

        judged = [day for day in found.days if day.readings[SCORE].strength is not None]
        if not judged:
            return
        newest = judged[-1]
        numbers = (
            (self._alarm, float(any(alarm.day >= newest.day for alarm in found.alarms))),
            (self._alert_rate, newest.readings[ALERT_RATE].value),
            (self._score_psi, newest.readings[SCORE].value),
            (self._judged, datetime.combine(newest.day, clock_time.min, UTC).timestamp()),
        )
        for gauge, value in numbers:
            gauge.clear()
            if value is not None:
                gauge.labels(version).set(value)
