"""One look at all partitions, or one after the other for as long as it is wanted."""

import logging
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta

from feature_repo.errors import DependencyDown, Unreconciled
from feature_repo.settings import Settings
from pipelines import log as kafka
from pipelines.live import reading
from pipelines.reconcile import documents, outcomes
from pipelines.reconcile.findings import Findings, Reconciled
from pipelines.reconcile.outcomes import Place, Seen
from pipelines.retention import kept_offsets

log = logging.getLogger("vigil.reconcile")

Told = Callable[[Reconciled], None]
"""Called with the result of every look."""


def check(
    settings: Settings, first: date | None = None, last: date | None = None, seen: Seen | None = None
) -> Reconciled:
    """Look at what was committed from the day `first` on (UTC; default: everything kept), until now or the day `last`.

    Memory is bounded whatever the window is. `seen` of an earlier look is gone on from, and is brought up to date.
    Findings are logged as well. Raises DependencyDown where a store is away: nothing is said then.
    """
    started = time.monotonic()
    before, seen = seen, deepcopy(seen or Seen())  # a look that is cut short is taken again as a whole
    found, done = Findings(), Reconciled(settings.topic)
    places = _places(settings)
    done.lag = kafka.unread(settings, {place.number: place.committed for place in places})
    for place in places:
        with reading(settings) as connection, connection.cursor() as cursor:
            outcomes.look(settings, cursor, place, first, last, seen, found, done)
    documents.compare(settings, seen, first, last, found, done)
    if before is not None:
        before.until, before.documents = seen.until, seen.documents
    done.findings = found.all()
    done.seconds = round(time.monotonic() - started, 3)
    for finding in done.findings:
        log.error("%s (%s): %s; try: %s", finding.code, finding.component, finding.cause, finding.remedy)
    return done


def follow(settings: Settings, every_s: float, stop: threading.Event, tell: Told, first: date | None = None) -> None:
    """Look from the day `first` on (default: yesterday), then again and again at what came since, until `stop` is set.

    A store that is away is waited for. Raises Unreconciled at the end where any look found something.
    """
    seen, codes = Seen(), dict[str, None]()
    first = first or today() - timedelta(days=1)
    while not stop.is_set():
        try:
            done = check(settings, first, seen=seen)
            tell(done)
            codes |= dict.fromkeys(finding.code for finding in done.findings)
            first = max(first, today() - timedelta(days=1))
            for old in [key for key in seen.documents if key[0] < first]:
                del seen.documents[old]
        except DependencyDown as error:
            log.warning("reconcile waits: %s", error)
        stop.wait(every_s)
    if codes:
        raise Unreconciled(list(codes))


def require(done: Reconciled) -> None:
    """Raises Unreconciled where anything was found."""
    if done.findings:
        raise Unreconciled([finding.code for finding in done.findings])


def today() -> date:
    return datetime.now(UTC).date()


def _places(settings: Settings) -> list[Place]:
    """Every partition that was ever claimed; the ledger first, so that Kafka is asked no earlier."""
    with reading(settings) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s ORDER BY 1", (settings.topic,)
        )
        ledger = cursor.fetchall()
        floors = kept_offsets(cursor)
    log_ = kafka.kept(settings)
    return [
        Place(number, committed, *log_.get(number, (0, 0)), floors.get(f"{settings.topic}-{number}", 0))
        for number, committed in ledger
    ]
