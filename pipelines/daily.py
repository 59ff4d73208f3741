"""What the lifecycle worker does each day beside the merchants' snapshot. The imports take seconds: only when due."""

import logging
from datetime import UTC, date, datetime, timedelta

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines import requests
from pipelines.metrics import LifecycleMetrics

WEEK = timedelta(days=7)
RETRAIN_LOCK = 0x56475254  # "VGRT"
WATCHED = "watched"  # the data set whose drift is looked at
OFF, WEEKLY = "off", "weekly"  # of VIGIL_RETRAIN; the third is drift

DAYS_OVER = """
    SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^decisions_[0-9]{8}$' AND relname < %s
    ORDER BY relname
"""

log = logging.getLogger("vigil.lifecycle")


def keep_states(settings: Settings, day: date) -> None:
    """A snapshot of the user states, then the sweep of silent ones. Raises StateLost, StateAhead, StateCorrupt,
    DependencyDown."""
    from pipelines.state import snapshots
    from pipelines.state.sweep import sweep

    try:
        kept = snapshots.take(settings)
    except BadConfiguration:
        return  # nothing was decided yet
    log.info("states: %d records kept as snapshot %s", kept.records, kept.name)
    swept = sweep(settings)
    log.info("states: %d of %d records swept after a long silence", swept.swept, swept.records)


class Checks:
    """What is looked at each day, as numbers people can be woken by."""

    def __init__(self, metrics: LifecycleMetrics) -> None:
        self._metrics = metrics

    def parity(self, settings: Settings, day: date) -> None:
        """Live features against the raw payments. Raises ParityBroken, which is then logged; DependencyDown."""
        from pipelines.parity.run import check, require

        try:
            found = check(settings)
        except BadConfiguration:
            return  # nothing was decided yet
        log.info("parity: %d decisions recomputed, %d not to be checked", found.checked, sum(found.unchecked.values()))
        self._metrics.parity(found)
        require(found)

    def reconcile(self, settings: Settings, day: date) -> None:
        """What was committed since yesterday began. Raises Unreconciled, which is then logged; DependencyDown."""
        from pipelines.reconcile.run import check, require

        done = check(settings, day - timedelta(days=1))
        log.info("reconcile: %d offsets, %d documents, %d findings", done.offsets, done.documents, len(done.findings))
        self._metrics.reconciled(done)
        require(done)

    def drift(self, settings: Settings, day: date) -> None:
        """The champion on what was decided after its training, up to yesterday. Raises DependencyDown.

        The decisions are exported to a data set of their own, so that nobody's `live` is replaced under their hands.
        """
        from pipelines.drift.run import watch
        from pipelines.live import export
        from pipelines.versions import CHAMPION, Versions

        versions = Versions(settings)
        try:
            version = versions.resolve(CHAMPION)
            manifest = versions.load(version).manifest
            first, last = manifest.last_day + timedelta(days=1), day - timedelta(days=1)
            export(settings, WATCHED, first, last)
            found = watch(settings, version, WATCHED, first, last, datetime.now(UTC)).drift
        except BadConfiguration as nothing:
            log.info("drift: nothing to judge: %s", nothing)
            return
        log.info("drift: version %s, %d days, %d alarms", version, len(found.days), len(found.alarms))
        self._metrics.drift(version, found)


def retention(settings: Settings, day: date) -> None:
    """Where VIGIL_RETENTION_DAYS asks for it. Raises DependencyDown."""
    from pipelines.retention import run

    if settings.retention_days is None:
        return
    done = run(settings, settings.retention_days, "lifecycle", today=day)
    log.info("retention: kept from %s, %d things gone, %d bytes", done.kept_from, len(done.gone), done.bytes)


def retrain(settings: Settings, day: date) -> None:
    """Where VIGIL_RETRAIN asks for it: on an alarm over live decisions, or every week.

    At most one version a week, as an alarm lasts until somebody promotes, and by one worker at a time. Raises
    BadConfiguration, DataInvalid, DependencyDown.
    """
    if settings.retrain == OFF:
        return
    with requests.connected(settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (RETRAIN_LOCK,))  # let go with the connection
        if cursor.fetchone() == (True,):
            _retrain(settings)


def _retrain(settings: Settings) -> None:
    from pipelines.retrain import retrain as run
    from pipelines.versions import Versions

    now = datetime.now(UTC)
    newest = max((one.created_at_ms for one in Versions(settings).all()), default=None)
    if newest is None or now - datetime.fromtimestamp(newest / 1_000, UTC) < WEEK:
        return
    done = run(settings, None, "lifecycle", now, force=settings.retrain == WEEKLY)
    log.info("retraining: %s, %s", ", ".join(done.why) or "no drift", done.version or "no version")


def seal(settings: Settings, day: date) -> None:
    """An index of the ids of every day that is over and has none. Raises DependencyDown."""
    with requests.connected(settings) as connection, connection.cursor() as cursor:
        cursor.execute(DAYS_OVER, (f"decisions_{day:%Y%m%d}",))
        for (name,) in cursor.fetchall():
            cursor.execute("SELECT seal_decision_partition(to_date(%s, 'YYYYMMDD'))", (name[-8:],))
            if cursor.fetchone() == (True,):
                log.info("sealed: %s", name)
            connection.commit()
