"""A topic that is grown while payments come: each decided once, with its user's whole past, whatever broke off."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewPartitions
from typer.testing import CliRunner

from feature_repo import definitions
from feature_repo.errors import (
    BadConfiguration,
    GrowthUnfinished,
    PlacementDiffers,
    StateLost,
    StateSourceMissing,
)
from feature_repo.settings import Settings
from infra.kafka import provision
from pipelines import growth
from pipelines.cli import app
from pipelines.growth import grow
from pipelines.parity import run as parity
from pipelines.state import snapshots
from pipelines.state.rebuild import rebuild
from pipelines.state.show import show
from streaming.states import StateStore
from tests.services.test_lifecycle import eventually
from tests.services.test_state import USERS, Live, forget_log, payments, seeded

AFTER = 5  # users of both partitions move, also from one old partition to the other
SENT = payments(0, 60), payments(60, 40), payments(100, 40)


class Growing(Live):
    """Records that are put in their place really come there."""

    def settle(self) -> None:
        """Decide until there is nothing left to decide."""
        while self.decide():
            producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
            for partition, key, value, headers in self.published.again:
                producer.produce(self.settings.topic, value, key, partition, headers=headers)
            assert producer.flush(30) == 0
            self.published.again.clear()

    def grown(self, partitions: int = AFTER) -> growth.Grown:
        done = grow(self.settings, partitions)
        self.place_by(self.settings.model_copy(update={"partitions": partitions}))
        return done

    def decisions(self) -> set[tuple[Any, ...]]:
        """What each payment came to, without where it lay."""
        found = self.ask(
            "SELECT transaction_id, amount, outcome, decision, anomaly_score, late, features::text FROM decisions"
            " WHERE kafka_topic = %(topic)s"
        )
        assert len(found) == len(set(found)) > 0
        return set(found)


@pytest.fixture
def make(stack: Settings, tmp_path: Path) -> Iterator[Callable[[], Growing]]:
    """A new topic with nothing in Redis, all else as it was."""
    made: list[Growing] = []

    def one() -> Growing:
        made.append(Growing(stack, tmp_path / str(len(made))))
        made[-1].settings.home.mkdir()
        made[-1].redis.flushdb()
        return made[-1]

    yield one
    for stream in made:
        stream.redis.flushdb()


@pytest.fixture
def live(make: Callable[[], Growing]) -> Growing:
    return make()


def states(stream: Growing) -> dict[str, str]:
    """Aggregates by user, wherever they lie; whose last payment lay where is not part of it."""
    records = {f"user {number}": show(stream.settings, f"user {number}") for number in range(USERS)}
    where = ("kafka_partition", "kafka_offset")
    return {
        user: repr([record.ring, {name: value for name, value in record.aggregates.items() if name not in where}])
        for user, record in records.items()
    }


def test_a_grown_topic_decides_as_if_it_had_always_been_so(make: Callable[[], Growing]) -> None:
    calm = make()
    for some in SENT:
        calm.run(some)
    expected, then = calm.decisions(), states(calm)

    live = make()
    live.run(SENT[0])
    live.send(SENT[1])  # not decided yet: those of users who move are put in their place afterwards
    done = live.grown()
    assert done.moved and done.records == USERS and done.waiting == len(SENT[1])
    live.starts()  # nothing refuses to go on
    live.settle()
    live.send(SENT[2])
    live.settle()
    assert live.decisions() == expected and states(live) == then
    assert live.ask("SELECT count(*) FROM dead_letters WHERE kafka_topic = %(topic)s AND code = 'REKEYED'")[0][0]
    assert {one for one, _ in live.outcomes()} > {0, 1}

    # what was lost comes back, from the snapshot that was taken then or from the log of all times
    before = live.held()
    live.redis.flushdb()
    assert {one.source for one in rebuild(live.settings).partitions} == {f"snapshot {done.snapshot}"}
    assert live.held() == before
    shutil.rmtree(snapshots.folder_of(live.settings))
    live.redis.flushdb()
    assert {one.source for one in rebuild(live.settings).partitions} == {"the log before it was grown"}
    assert live.held() == before

    found = parity.check(live.settings)
    assert found.checked == len([one for one in expected if one[-1]]) and not found.mismatches

    forget_log(live, {0: 3})
    with pytest.raises(StateSourceMissing, match="of partition 0, before there were 5, the log begins at offset 3"):
        rebuild(live.settings, [AFTER - 1])


def test_states_that_began_with_a_history_are_rebuilt_across_a_growth(live: Growing) -> None:
    seeded(live)
    live.run(SENT[0])
    live.grown(3)
    live.run(SENT[1])
    live.grown(4)
    live.run(SENT[2])
    before = live.held()
    shutil.rmtree(snapshots.folder_of(live.settings))
    live.redis.flushdb()
    with pytest.raises(StateSourceMissing, match="history first ends before the log begins"):
        rebuild(live.settings, history="first")
    assert {one.source for one in rebuild(live.settings).partitions} == {
        "history first and the log before it was grown"
    }
    assert live.held() == before
    assert not parity.check(live.settings).mismatches


@pytest.mark.parametrize(
    ("of", "name", "after"),
    [
        (provision, "grow", 0),
        (StateStore, "move", 1),
        (StateStore, "drop", 1),
        (growth, "audit", 0),
        (StateStore, "mark_placement", 1),
        (snapshots, "take", 0),
    ],
)
def test_a_growth_that_broke_off_is_finished_by_running_it_again(
    live: Growing, monkeypatch: pytest.MonkeyPatch, of: Any, name: str, after: int
) -> None:
    live.run(SENT[0])
    then = states(live)
    real, calls = getattr(of, name), []

    def breaks(*args: Any) -> Any:
        calls.append(name)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(of, name, breaks)
        grow(live.settings, AFTER)
    if name in ("mark_placement", "take"):  # all that the stream goes by was done
        assert grow(live.settings, AFTER).before == AFTER
    else:
        for refused in (live.starts, lambda: show(live.settings, "user 1"), lambda: snapshots.take(live.settings)):
            with pytest.raises(GrowthUnfinished, match=f"{AFTER} partitions"):
                refused()
        with pytest.raises(BadConfiguration, match="is being grown to 5"):
            grow(live.settings, AFTER + 1)
        assert live.grown().before == 2
    live.place_by(live.settings.model_copy(update={"partitions": AFTER}))
    assert states(live) == then
    assert len([key for key in live.held() if b"}:s:" in key]) == USERS


def test_states_lost_while_the_topic_is_grown_are_rebuilt_as_they_were_and_moved(
    live: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.run(SENT[0])
    then = states(live)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(provision, "grow", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        grow(live.settings, AFTER)
    live.redis.flushdb()
    with pytest.raises(StateLost):
        grow(live.settings, AFTER)
    rebuild(live.settings)
    live.grown()
    assert states(live) == then


def test_partitions_somebody_added_are_read_from_their_beginning_and_taken_over(make: Callable[[], Growing]) -> None:
    calm = make()
    for some in SENT:
        calm.run(some)
    expected = calm.decisions()

    live = make()
    live.run(SENT[0])
    topic = live.settings.topic
    live.admin.create_partitions([NewPartitions(topic, AFTER)])[topic].result(30)
    eventually(lambda: len(live.admin.list_topics(topic, timeout=10).topics[topic].partitions) == AFTER)
    assert set(live.starts()) == set(range(AFTER))
    live.send(SENT[1], AFTER)  # as producers place users from now on
    live.settle()
    with pytest.raises(BadConfiguration, match="has 5 partitions in Kafka"):
        grow(live.settings, AFTER - 1)
    live.grown()
    live.send(SENT[2])
    live.settle()
    assert {one[:5] for one in live.decisions()} == {one[:5] for one in expected}


def test_settings_of_another_placement_are_refused_wherever_states_are_read(live: Growing) -> None:
    live.run(SENT[0])
    live.starts()
    live.grown()
    stale = live.settings.model_copy(update={"partitions": 2})
    live.place_by(stale)
    for read in (
        live.starts,
        lambda: rebuild(stale),
        lambda: show(stale, "user 1"),
        lambda: snapshots.take(stale),
        lambda: definitions.apply(stale).get_online_features(["user_activity:state"], [{"user_id": "user 1"}]),
    ):
        with pytest.raises(PlacementDiffers, match="placed by 5 murmur2, the settings say 2 murmur2") as differs:
            read()
        assert "VIGIL_PARTITIONS=5" in differs.value.remedy
    with pytest.raises(BadConfiguration, match="does not shrink"):
        grow(stale, 3)


def test_states_behind_the_ledger_are_not_moved(live: Growing) -> None:
    live.run(SENT[0])
    older = live.held()
    live.run(SENT[1])
    live.put_back(older)
    with pytest.raises(BadConfiguration, match="states only up to") as caught:
        grow(live.settings, AFTER)
    assert "until-caught-up" in caught.value.remedy
    live.settle()
    assert live.grown().moved


def test_the_command_tells_what_it_did(live: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    live.run(SENT[0])
    monkeypatch.setattr("feature_repo.settings.load", lambda **_: live.settings)
    told = CliRunner().invoke(app, ["topic", "grow", "--partitions", str(AFTER)], catch_exceptions=False)
    assert f"has {AFTER} partitions, 2 before" in told.stdout and "states moved" in told.stdout
    assert f"set VIGIL_PARTITIONS={AFTER}" in told.stderr  # this home holds no stack
