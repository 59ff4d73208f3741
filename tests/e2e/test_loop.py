"""The loop, once around on real servers: habits change, drift is seen, a challenger is trained, judged and promoted.

There are a hundred and five simulated days. The stream is seeded with the first 56 and decides the others; habits
change on day 61. The champion knows days 28 to 55.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta

import psycopg2
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo.settings import Settings
from infra.local.services import NAMES, SERVERS
from infra.local.stack import Stack
from pipelines import road as look
from pipelines.clock import SystemClock
from pipelines.demo import Demo, Scale, await_served
from pipelines.drift.run import watch
from pipelines.history import import_history
from pipelines.live import LIVE, export
from pipelines.parity.run import check
from pipelines.produce import produce
from pipelines.promote import promote, rollback
from pipelines.replay import replay
from pipelines.retrain import retrain
from pipelines.simulator import folder, world
from pipelines.simulator.world import Options
from pipelines.sources import from_history
from pipelines.versions import CHALLENGER, Versions
from tests.live import new_stack
from training.data import midnight
from training.train import train

WARM_UP, TRAINED, CHANGES, DAYS = 28, 56, 61, 105  # the day that follows each; DAYS in all
RETRAINED = 90  # the day on which somebody retrains: by then a month's labels after the change are mature
START = date(2025, 1, 6)  # whatever today is, the same payments
PAST, WHOLE = "past", "whole"  # data sets: what seeds the stream, and all of it with its labels
SMALL = ("updates=100", "seeds=1", "folds=2", "baselines=false", "alert_budget=0.01")
DECIDED_S = 240.0


def on(day: int) -> datetime:
    return midnight(START + timedelta(days=day))


@pytest.fixture(scope="module")
def stack(hermetic: None) -> Iterator[Stack]:
    """Servers, both data sets, and live states that know the past."""
    stack = new_stack()
    try:
        stack.up(SERVERS)
        settings, home = stack.settings, stack.settings.home
        options = Options(users=1_000, seed=1, start=START, prevalence=0.03, regime_day=CHANGES)
        folder.write(world.build(options), DAYS, home / WHOLE)
        history = pq.read_table(home / WHOLE / folder.HISTORY)
        pq.write_table(history.filter(pc.less(history["arrival_time"], on(TRAINED))), home / f"{PAST}.parquet")
        import_history(settings, home / WHOLE / folder.HISTORY, WHOLE)
        import_history(settings, home / f"{PAST}.parquet", PAST)
        replay(settings, WHOLE)
        replay(settings, PAST, online=True)
        yield stack
    finally:
        stack.erase()


def decide(settings: Settings, first: int, last: int) -> None:
    """The payments of these days, through the road."""
    days = (START + timedelta(days=first), START + timedelta(days=last))
    payments = from_history(settings, WHOLE, SystemClock(), first=days[0], last=days[1])
    produce(settings, payments)
    assert look.settle(settings, DECIDED_S, search=False).complete


def versions_of(settings: Settings, day: int) -> set[str]:
    """Which versions decided the payments of a day."""
    with closing(psycopg2.connect(settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT model_version FROM decisions WHERE event_time >= %s AND event_time < %s",
                       (on(day), on(day + 1)))  # fmt: skip
        return {version for (version,) in cursor}


def test_a_change_of_habits_is_seen_answered_and_taken_back(stack: Stack) -> None:
    settings = stack.settings
    trained = (START + timedelta(days=WARM_UP), START + timedelta(days=TRAINED - 1))
    champion = train(settings, PAST, *trained, recipe="default", overrides=SMALL)
    promote(settings, champion, "test", override="the first one, before there is anything to judge it by")
    # Without the lifecycle worker: its daily snapshot of merchants is of the real today, when nobody pays any more.
    stack.up([name for name in NAMES if name != "lifecycle"])
    demo = Demo(stack, Scale(), lambda step, what: None)
    await_served(demo.settings, champion)
    decide(settings, TRAINED, DAYS - 3)
    assert versions_of(settings, TRAINED) == {champion}
    found = check(settings, sample=500, seed=1)
    assert found.checked > 400 and found.mismatches == [] and found.unchecked == {}

    export(settings, LIVE, with_history=True)
    drift = watch(settings, "champion", LIVE, None, START + timedelta(days=CHANGES + 1), on(CHANGES + 2)).drift
    alarmed = {(alarm.day - START).days for alarm in drift.alarms}
    assert alarmed and alarmed <= {CHANGES, CHANGES + 1}, drift.alarms  # within two days, and not before

    done = retrain(settings, WHOLE, "test", on(RETRAINED))
    assert done.why and done.version is not None
    assert Versions(settings).aliases() == {"champion": champion, CHALLENGER: done.version}
    assert not versions_of(settings, TRAINED) & {done.version}, "it is on trial, and decides nothing"

    promoted = promote(settings, done.version, "test", data=WHOLE)
    assert (promoted.version, promoted.previous) == (done.version, champion)
    await_served(demo.settings, done.version)
    decide(settings, DAYS - 2, DAYS - 2)
    assert versions_of(settings, DAYS - 2) == {done.version}

    assert rollback(settings, "test").version == champion
    await_served(demo.settings, champion)
    decide(settings, DAYS - 1, DAYS - 1)
    assert versions_of(settings, DAYS - 1) == {champion}
