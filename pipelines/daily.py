"""What the lifecycle worker does each day beside the merchants' snapshot. The imports take seconds: only when due."""

import logging
from datetime import UTC, date, datetime, timedelta

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines import requests

WEEK = timedelta(days=7)
RETRAIN_LOCK = 0x56475254  # "VGRT"
OFF, WEEKLY = "off", "weekly"  # of VIGIL_RETRAIN; the third is drift

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


def parity(settings: Settings, day: date) -> None:
    """Live features against the raw payments. Raises ParityBroken, which is then logged; DependencyDown."""
    from pipelines.parity.run import check, require

    try:
        found = check(settings)
    except BadConfiguration:
        return  # nothing was decided yet
    log.info("parity: %d decisions recomputed, %d not to be checked", found.checked, sum(found.unchecked.values()))
    require(found)


def reconcile(settings: Settings, day: date) -> None:
    """What was committed since yesterday began. Raises Unreconciled, which is then logged; DependencyDown."""
    from pipelines.reconcile.run import check, require

    done = check(settings, day - timedelta(days=1))
    log.info("reconcile: %d offsets, %d documents, %d findings", done.offsets, done.documents, len(done.findings))
    require(done)


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
