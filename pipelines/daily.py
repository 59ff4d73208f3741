"""What the lifecycle worker does each day beside the merchants' snapshot. The imports take seconds: only when due."""

import logging
from datetime import UTC, date, datetime, timedelta

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings

WEEK = timedelta(days=7)
OFF, WEEKLY = "off", "weekly"  # of VIGIL_RETRAIN; the third is drift

log = logging.getLogger("vigil.lifecycle")


def parity(settings: Settings, day: date) -> None:
    """Live features against the raw payments. Raises ParityBroken, which is then logged; DependencyDown."""
    from pipelines.parity.run import check, require

    try:
        found = check(settings)
    except BadConfiguration:
        return  # nothing was decided yet
    log.info("parity: %d decisions recomputed, %d not to be checked", found.checked, sum(found.unchecked.values()))
    require(found)


def retrain(settings: Settings, day: date) -> None:
    """Where VIGIL_RETRAIN asks for it: on an alarm over live decisions, or every week.

    At most one version a week: an alarm lasts until somebody promotes. Raises BadConfiguration, DataInvalid,
    DependencyDown.
    """
    if settings.retrain == OFF:
        return
    from pipelines.live import LIVE, export
    from pipelines.retrain import retrain as run
    from pipelines.versions import Versions

    now = datetime.now(UTC)
    newest = max((one.created_at_ms for one in Versions(settings).all()), default=None)
    if newest is None or now - datetime.fromtimestamp(newest / 1_000, UTC) < WEEK:
        return
    export(settings, LIVE, with_history=True)
    done = run(settings, LIVE, "lifecycle", now, force=settings.retrain == WEEKLY)
    log.info("retraining: %s, %s", ", ".join(done.why) or "no drift", done.version or "no version")
