"""Says in table `conditions` what keeps a job from its whole work."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg2
import psycopg2.extensions

from feature_repo.conditions import Condition, report
from feature_repo.errors import DependencyDown, VigilError
from feature_repo.postgres import LIVENESS
from feature_repo.settings import Settings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
OPTIONS = "-c statement_timeout=5000 -c synchronous_commit=off"  # the next word comes in seconds


class Reporter:
    """Of one job and topic. With PostgreSQL away it says nothing: who reads the table finds that out by itself."""

    def __init__(self, settings: Settings, job: str) -> None:
        self._dsn = settings.postgres_dsn
        self._job = f"{job} {settings.topic}"

    def say(self, found: Sequence[Condition], *, ended: bool = False) -> None:
        """All that holds now, none for nothing; with `ended` until the job runs again."""
        try:
            with (
                closing(self._connect()) as connection,
                connection,
                connection.cursor() as cursor,
            ):
                report(cursor, self._job, found, ended=ended)
        except psycopg2.Error as error:
            log.info("nobody to tell of %s: %s", [one.code for one in found], str(error).strip())

    def _connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(self._dsn, connect_timeout=CONNECT_TIMEOUT_S, options=OPTIONS, **LIVENESS)


@contextmanager
def reported(settings: Settings, job: str) -> Iterator[Reporter]:
    """A reporter; what ends the block is said, and an ordinary end that nothing is amiss."""
    reporter = Reporter(settings, job)
    try:
        yield reporter
    except VigilError as error:
        cause = f"payments wait for {error.dependency}" if isinstance(error, DependencyDown) else error.message
        reporter.say([Condition(error.code, job, cause, error.remedy or f"vigil logs {job}")], ended=True)
        raise
    reporter.say([])
