"""The lifecycle worker: does what people ask of the models, takes in labels, and runs what is due each day.

`vigil lifecycle`, supervised as service `lifecycle`. Any number may run: a request's row is locked while it is
worked on, labels are shared by the consumer group, and daily jobs bear being run twice.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial

from feature_repo.errors import Family, StoreUnavailable, VigilError
from feature_repo.settings import Settings
from pipelines import daily, labels, requests
from pipelines.metrics import DONE, FAILED, WAITS, LifecycleMetrics
from pipelines.promote import work
from pipelines.rebuild import rebuild_merchants
from pipelines.requests import Connection

log = logging.getLogger("vigil.lifecycle")

LOOK_EVERY_S = 1.0
PAUSE_S = 2.0  # before PostgreSQL is asked again
AGAIN_S = 30.0  # before a daily job that found a server away is tried again

DailyJob = Callable[[Settings, date], None]
"""Called with the UTC day that began. May block for minutes. May raise a VigilError, which is logged; one of family
RETRY is tried again soon, any other, as what nobody foresaw, the next day."""
Told = Callable[[str, str], None]
"""Called with what was done (a daily job, an action that was asked for) and what became of it."""


def daily_jobs(metrics: LifecycleMetrics) -> tuple[DailyJob, ...]:
    """What is due at the first look of every UTC day, in this order."""
    checks = daily.Checks(metrics)
    return (
        daily.seal, rebuild_merchants, daily.keep_states, checks.parity, checks.reconcile, checks.drift, daily.retrain,
        daily.retention,
    )  # fmt: skip


def run(
    settings: Settings, stop: threading.Event, metrics: LifecycleMetrics, jobs: tuple[DailyJob, ...] | None = None
) -> None:
    """Until `stop` is set; the request in hand is finished first. With PostgreSQL or Kafka away it waits.

    `jobs` are what is due daily, by default `daily_jobs`. Raises what nobody foresaw, from whichever part: the
    supervisor then starts all of it again.
    """
    failures: list[BaseException] = []
    days = Days(daily_jobs(metrics) if jobs is None else jobs, told=metrics.job)
    consume = partial(labels.consume, told=metrics.labels)
    parts = (
        threading.Thread(target=_guarded, args=(consume, settings, stop, failures), name="labels"),
        threading.Thread(target=_guarded, args=(days.run, settings, stop, failures), name="daily"),
    )
    for part in parts:
        part.start()
    _guarded(partial(_requests, told=metrics.request), settings, stop, failures)
    for part in parts:
        part.join()
    if failures:
        raise failures[0]


def _guarded(
    part: Callable[[Settings, threading.Event], None],
    settings: Settings,
    stop: threading.Event,
    failures: list[BaseException],
) -> None:
    """A part that ends by an error ends the others."""
    try:
        part(settings, stop)
    except BaseException as error:
        failures.append(error)
        stop.set()


def _requests(settings: Settings, stop: threading.Event, told: Told) -> None:
    while not stop.is_set():
        try:
            with requests.connected(settings) as connection:
                _answer_requests(settings, connection, stop, told)
        except StoreUnavailable as error:
            log.warning("requests wait: %s", error)
            stop.wait(PAUSE_S)


def _answer_requests(settings: Settings, connection: Connection, stop: threading.Event, told: Told) -> None:
    """One after the other, oldest first, for as long as the connection holds."""
    requests.announce_worker(connection, settings.model_name)
    while not stop.is_set():
        request_id = requests.begin(connection, settings.model_name)
        if request_id is None:
            stop.wait(LOOK_EVERY_S)
        else:
            log.info("request %d begins", request_id)
            work(settings, connection, request_id)
            done = requests.read(connection, request_id)
            log.info("request %d: %s", request_id, done.outcome)
            if done.outcome is not None:
                told(done.action, done.outcome)


class Days:
    """Runs the daily jobs once per UTC day and process: a restart runs them again."""

    def __init__(
        self,
        jobs: tuple[DailyJob, ...],
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
        clock: Callable[[], float] = time.monotonic,
        told: Told = lambda *_: None,
    ) -> None:
        self._jobs = jobs
        self._today = today
        self._clock = clock
        self._told = told
        self._done: dict[DailyJob, date] = {}
        self._not_before: dict[DailyJob, float] = {}
        self._said: dict[DailyJob, str] = {}

    def run(self, settings: Settings, stop: threading.Event) -> None:
        while self._jobs and not stop.is_set():
            self.look(settings, stop.is_set)
            stop.wait(LOOK_EVERY_S)

    def look(self, settings: Settings, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run what is due: what was not done this day, or found a server away a while ago."""
        day = self._today()
        for job in self._jobs:
            if stopped():
                return
            if self._done.get(job) != day and self._clock() >= self._not_before.get(job, 0.0):
                self._attempt(job, settings, day)

    def _attempt(self, job: DailyJob, settings: Settings, day: date) -> None:
        try:
            job(settings, day)
            self._done[job] = day
            self._said.pop(job, None)
            self._told(job.__name__, DONE)
        except VigilError as error:
            waits = error.family is Family.RETRY
            if waits:
                self._not_before[job] = self._clock() + AGAIN_S
            else:
                self._done[job] = day
            self._told(job.__name__, WAITS if waits else FAILED)
            said = f"{error.code}: {error}"
            if self._said.get(job) != said:  # once, however long the server is away
                log.warning("daily job %s: %s", job.__name__, said)
            self._said[job] = said
        except Exception:  # requests and labels go on
            log.exception("daily job %s", job.__name__)
            self._done[job] = day
            self._told(job.__name__, FAILED)
