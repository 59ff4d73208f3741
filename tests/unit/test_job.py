"""The driver between batches: when it holds, what it tells the tasks, whom it asks no more. Spark is a fake here."""

import pickle
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from feature_repo.errors import (
    BadRecord,
    DependencyDown,
    LedgerMoved,
    RecordsGone,
    SchemaBreak,
    StateLost,
    StreamStopped,
    VigilError,
)
from feature_repo.settings import Settings
from feature_repo.switches import INTAKE, PAUSED, RUNNING, SCORED, SCORING
from feature_repo.switches import RULES_ONLY as ONLY_RULES
from serving.client import Models
from streaming import job as jobs
from streaming.amiss import UNPUBLISHED_S
from streaming.breaker import Breaker
from streaming.decisions import MODEL_DOWN, RULES_ONLY
from streaming.job import FIRST_PAUSE_S, LONGEST_PAUSE_S, Interrupted, Job
from streaming.metrics import StreamMetrics
from streaming.offsets import OffsetRange
from streaming.partition import Taken
from streaming.scoring import Pin, Pins
from tests.unit.test_offsets import plan
from tests.unit.test_scoring import CHAMPION

DONE = Taken(0, 0, 3, Counter(scored=3), model_version="1")
SILENT = Taken(0, 0, 3, Counter(unscored=3), unscored={"MODEL_DOWN": 3})
UNPUBLISHED = Taken(0, 0, 3, Counter(scored=3), published=False)
POSTGRES = DependencyDown("PostgreSQL", "here", "away")
KAFKA = DependencyDown("Kafka", "here", "no acknowledgement")
SERVICE = DependencyDown("model service", "here", "away")


@dataclass
class Client:
    """The model service; `error` is its answer while there is one."""

    error: DependencyDown | None = None
    asked: int = 0

    def models(self) -> Models:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Models("1", None, (CHAMPION,))


@dataclass
class Stores:
    """Ledger and merchants; `away` are PostgreSQL's next answers."""

    standing: dict[str, str] = field(default_factory=lambda: {INTAKE: RUNNING, SCORING: SCORED})
    committed: dict[int, int] = field(default_factory=dict)
    behind: int = 1  # ranges that are not published
    away: list[DependencyDown] = field(default_factory=list)

    def switches(self) -> dict[str, str]:
        if self.away:
            raise self.away.pop(0)
        return dict(self.standing)

    def positions(self) -> dict[int, int]:
        return dict(self.committed)

    def unpublished(self) -> tuple[int, float]:
        return self.behind, 0.0

    def ensure_partitions(self) -> None:
        pass

    def current(self) -> None:
        return None


@dataclass
class Spark:
    """A context whose tasks come to these, and note what they were told: pins, and whether to publish."""

    results: list[Taken | VigilError]
    told: list[tuple[Pins, bool]]
    stores: Stores

    @property
    def sparkSession(self) -> "Spark":  # noqa: N802  # Spark's name
        return self

    sparkContext = sparkSession  # noqa: N815

    def range(self, count: int, numSlices: int) -> "Spark":
        assert count == numSlices == 1
        return self

    def mapPartitionsWithIndex(self, task: Any) -> "Spark":  # noqa: N802
        _, pinned, _, _, _, publish, ranges = task.args
        assert ranges == [OffsetRange(0, 0, 3)]
        self.told.append((pinned, publish))
        return self

    def collect(self) -> list[Taken | VigilError]:
        for one in self.results:
            if isinstance(one, Taken):
                self.stores.committed[one.partition] = one.until
        return list(self.results)


class Site:
    """A job over all of these. Nothing probes by itself, and sleeping only notes for how long."""

    def __init__(self, checkpoint: Path) -> None:
        plan(checkpoint, {0: 0}, {0: 3})
        self.checkpoint = checkpoint
        self.stores, self.client, self.told = Stores(), Client(), list[tuple[Pins, bool]]()
        self.slept: list[float] = []
        self.asleep: Callable[[], bool] = lambda: False  # what happens meanwhile; true to end
        self.repairs: list[DependencyDown] = []  # what the next repairs come to
        self.repaired = 0
        self.job = Job(Settings(partitions=1), StreamMetrics(CollectorRegistry()), wait=self.wait)
        self.job._ledger = self.job._merchants = self.stores  # type: ignore[assignment]
        self.job._models = self.client  # type: ignore[assignment]
        self.job._publish_unpublished = self.job.sinks._probe = self.repair  # type: ignore[method-assign]
        self.job.model_service._probe = self.client.models

    def wait(self, seconds: float) -> bool:
        self.slept.append(seconds)
        return self.asleep()

    def repair(self) -> None:
        self.repaired += 1
        if self.repairs:
            raise self.repairs.pop(0)

    def take(self, *results: Taken | VigilError) -> tuple[Pins, bool]:
        """What the tasks of a batch were told at last."""
        self.take_of(list(results or [DONE]))
        return self.told[-1]

    def take_of(self, results: list[Taken | VigilError]) -> None:
        self.job.take(self.checkpoint, Spark(results, self.told, self.stores), 0)  # type: ignore[arg-type]  # a fake

    def codes(self, unpublished: int = 0, age_s: float = 0.0) -> list[str]:
        return [one.code for one in self.job.amiss(unpublished, age_s)]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    return Site(tmp_path)


def heal(breaker: Breaker) -> None:
    """What the breaker's thread does once the server is back."""
    breaker._until_well()
    assert not breaker.open


def test_a_paused_stream_begins_no_batch_until_it_is_resumed(site: Site) -> None:
    site.stores.standing[INTAKE] = PAUSED

    def resume_at_third() -> bool:
        assert site.told == [] and site.client.asked == 0
        if len(site.slept) == 3:
            site.stores.standing[INTAKE] = RUNNING
        return False

    site.asleep = resume_at_third
    site.take()
    assert len(site.slept) == 3 and len(site.told) == 1


@pytest.mark.parametrize("why", ["paused", "PostgreSQL is away"])
def test_a_job_that_holds_a_batch_ends_at_once_when_asked_to(site: Site, why: str) -> None:
    site.asleep = lambda: True
    if why == "paused":
        site.stores.standing[INTAKE] = PAUSED
    else:
        site.stores.away = [POSTGRES]
    with pytest.raises(Interrupted):
        site.take()
    assert site.job.interrupted and site.told == [] and len(site.slept) == 1


def test_a_job_that_left_a_query_takes_no_batch_of_it_and_those_of_the_next_one(site: Site) -> None:
    site.take()
    site.job.leave()
    with pytest.raises(Interrupted):
        site.take()
    assert site.job.interrupted and len(site.told) == 1
    site.job.come_back()
    site.take()
    assert not site.job.interrupted and len(site.told) == 2


def test_a_ledger_that_went_back_takes_no_range_with_it(site: Site) -> None:
    site.take(Taken(0, 0, 3, Counter(scored=3)))
    site.stores.committed[0] = 2  # PostgreSQL, and Redis with it, came back from a backup while a batch was held
    with pytest.raises(LedgerMoved, match="stands before what this job decided"):
        site.take()
    assert len(site.told) == 1


def test_a_model_whose_answers_cannot_be_used_is_said_until_one_can(site: Site) -> None:
    site.take(Taken(0, 0, 3, Counter(unscored=3), unscored={"MODEL_FAILED": 3}))
    assert site.codes() == ["MODEL_FAILED"] and not site.job.model_service.open
    site.take(Taken(0, 0, 3, Counter(duplicate=3)))
    assert site.codes() == ["MODEL_FAILED"]
    site.take(Taken(0, 0, 3, Counter(scored=3)))
    assert site.codes() == []


def test_rules_only_asks_no_model_and_says_why_there_is_no_score(site: Site) -> None:
    site.stores.standing[SCORING] = ONLY_RULES
    pinned, _ = site.take(Taken(0, 0, 3, Counter(unscored=3), unscored={"RULES_ONLY": 3}))
    assert (pinned.champion, pinned.silence, site.client.asked) == (None, RULES_ONLY, 0)
    site.stores.standing[SCORING] = SCORED
    pinned, _ = site.take()
    assert pinned.champion is not None


def test_a_batch_waits_for_postgresql_in_growing_pauses_and_is_never_skipped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[float] = []

    def pause(tries: int, first_s: float, longest_s: float) -> float:
        bounds.append(min(longest_s, first_s * 2**tries))
        return bounds[-1]

    monkeypatch.setattr(jobs, "pause_s", pause)
    site.stores.away = [POSTGRES] * 7
    said: list[str] = []

    def look() -> bool:
        said.extend(site.codes())
        return False

    site.asleep = look
    site.take()
    assert site.slept == bounds == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0] and len(site.told) == 1
    assert (FIRST_PAUSE_S, LONGEST_PAUSE_S) == (0.5, 10.0)
    assert said == ["STREAM_HOLDS"] * 7 and site.codes() == []


def test_a_range_that_met_a_store_away_is_taken_again_under_new_pins(site: Site) -> None:
    results = [POSTGRES]
    site.asleep = lambda: bool(results.__setitem__(0, DONE))
    site.take_of(results)
    first, second = (pinned.champion for pinned, _ in site.told)
    assert first is not None and second is not None and first.number != second.number


@pytest.mark.parametrize(
    "raised",
    [
        POSTGRES,
        LedgerMoved("transactions", 1),
        StateLost(1, 40),
        RecordsGone("transactions", 1, 5, 9),
        SchemaBreak(0, 3, 9, 5, 20, "NOT_JSON"),
        BadRecord("TOO_LARGE", "the body is too large", status=413, field="amount"),
    ],
)
def test_an_error_of_a_task_is_the_same_at_the_driver(raised: VigilError) -> None:
    arrived = pickle.loads(pickle.dumps(raised))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(raised), str(raised), vars(raised))


def test_what_is_fatal_ends_the_job_though_another_range_only_waits(site: Site) -> None:
    with pytest.raises(Exception, match="moved the ledger"):
        site.take(POSTGRES, LedgerMoved("transactions", 1))
    assert isinstance(site.job.stopped_by, LedgerMoved) and site.slept == []


def test_a_dead_model_service_is_asked_once_and_not_again_until_a_probe_comes_through(site: Site) -> None:
    site.client.error = SERVICE
    for _ in range(5):
        pinned, _ = site.take(SILENT)
        assert (pinned.champion, pinned.silence) == (None, MODEL_DOWN)
    assert site.client.asked == 1 and site.slept == [] and site.codes() == ["MODEL_DOWN"]
    site.client.error = None
    heal(site.job.model_service)
    pinned, _ = site.take()
    assert pinned.champion is not None and site.codes() == []


def test_a_service_that_names_its_models_and_gives_no_score_is_left_alone_as_well(site: Site) -> None:
    site.take(DONE, SILENT)
    assert site.codes() == ["MODEL_DOWN"]
    asked = site.client.asked
    assert site.take()[0].champion is None and site.client.asked == asked


def test_payments_without_a_score_for_other_reasons_open_nothing(site: Site) -> None:
    site.take(Taken(0, 0, 3, Counter(unscored=3), unscored={"CURRENCY_UNSUPPORTED": 3}))
    assert site.codes() == []


def test_sinks_that_refuse_hold_up_nothing_and_are_published_to_again_once_they_take_it(site: Site) -> None:
    assert site.take(UNPUBLISHED)[1] is True
    for _ in range(3):
        assert site.take(UNPUBLISHED)[1] is False
    assert site.slept == [] and site.codes(unpublished=4) == ["PUBLISH_BEHIND"]
    heal(site.job.sinks)
    repaired = site.repaired
    assert site.take()[1] is True
    assert site.repaired == repaired + 1, "what was decided while the probe published may be left behind"
    site.take()
    assert site.repaired == repaired + 1


def test_what_an_earlier_run_left_behind_does_not_hold_up_the_first_batch(site: Site) -> None:
    site.repairs = [KAFKA]
    assert site.take(UNPUBLISHED)[1] is False
    assert site.slept == [] and site.job.sinks.open


def test_a_long_backlog_of_unpublished_ranges_is_published_beside_the_batches(site: Site) -> None:
    site.stores.behind = 10_000
    assert site.take()[1] is True
    assert site.repaired == 0 and site.job._repairing is not None
    site.repairs = [POSTGRES]
    site.job._repair_beside()
    assert site.repaired == 1 and not site.job.sinks.open
    site.take()
    assert site.job._repair is False, "begun anew"


def test_a_repair_that_cannot_read_postgresql_holds_the_batch(site: Site) -> None:
    site.repairs = [POSTGRES]
    assert site.take()[1] is True
    assert len(site.slept) == 1 and site.repaired == 2


def test_ranges_left_behind_are_published_without_waiting_for_a_batch(site: Site) -> None:
    behind, not_yet = (1, UNPUBLISHED_S + 1), (1, UNPUBLISHED_S / 2)
    for look in (behind, behind, not_yet, behind, behind):
        site.job.look_after(*look)
        assert not site.job.sinks.open
    site.job.look_after(*behind)
    assert site.job.sinks.open and site.codes(*behind) == ["PUBLISH_BEHIND"]


def test_each_attempt_has_a_number_of_its_own(site: Site) -> None:
    numbers = {pinned.champion.number for pinned, _ in (site.take() for _ in range(3)) if pinned.champion}
    assert len(numbers) == 3
    assert site.told[0][0].champion == Pin.of(CHAMPION, min(numbers))


def test_a_spoilt_checkpoint_ends_the_job_as_one_clear_error(site: Site) -> None:
    (site.checkpoint / "offsets" / "0").unlink()
    with pytest.raises(StreamStopped, match="checkpoint cannot be read: 0 of offsets"):
        site.take()
    assert isinstance(site.job.stopped_by, StreamStopped) and site.told == []


def test_a_batch_without_a_record_starts_no_task(site: Site, tmp_path: Path) -> None:
    plan(tmp_path / "quiet", {0: 3}, {0: 3})
    site.checkpoint = tmp_path / "quiet"
    site.take_of([DONE])
    assert site.told == []
