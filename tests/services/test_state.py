"""User states lost, restored from too old or too new, kept and swept: what the stream holds afterwards, to the byte."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import TopicPartition
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from feature_repo.errors import (
    AlreadyRunning,
    BadConfiguration,
    Fenced,
    RecordsGone,
    StateAhead,
    StateBehind,
    StateLost,
    StateSourceMissing,
    StateUnknown,
)
from feature_repo.hashing import partitions_of
from feature_repo.keys import fence_key, state_key
from feature_repo.settings import Settings
from feature_repo.snapshot_store import SnapshotStore
from feature_repo.state import DAY
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import daily, online
from pipelines.cli import app
from pipelines.live import export
from pipelines.replay import replay
from pipelines.state import snapshots
from pipelines.state.rebuild import rebuild
from pipelines.state.show import show, sizes
from pipelines.state.sweep import SILENCE, sweep
from streaming.job import EARLIEST, Job
from streaming.lock import only_one
from streaming.metrics import StreamMetrics
from streaming.run import check_redis
from streaming.states import StateStore
from tests.cases.decided import PARTITIONS, Stream
from tests.unit.streams import snapshot_of

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS = 7


class Live(Stream):
    """With states in Redis, in a database of its own, and a home of its own."""

    def __init__(self, stack: Settings, home: Path) -> None:
        settings = stack.model_copy(update={"home": home, "redis_url": stack.redis_url.rpartition("/")[0] + "/1"})
        super().__init__(settings, StateStore(settings.redis_url))
        self.redis = redis.Redis.from_url(settings.redis_url)

    def starts(self) -> dict[int, int]:
        """As the job itself finds out, which also refuses to start."""
        told = json.loads(Job(self.settings, StreamMetrics(CollectorRegistry())).starting_offsets())[
            self.settings.topic
        ]
        return {int(partition): 0 if offset == EARLIEST else offset for partition, offset in told.items()}

    def run(self, *pieces: list[dict[str, Any]]) -> None:
        """One range after the other."""
        for piece in pieces:
            self.send(piece)
            self.decide()

    def held(self) -> dict[bytes, bytes]:
        """All of Redis but the fences, which name attempts, and what only the job itself notes beside the states."""
        keys = [key for key in self.redis.scan_iter("*") if not key.endswith((b":fence", b":placement"))]
        return dict(zip(keys, self.redis.mget(keys), strict=True)) if keys else {}

    def put_back(self, held: dict[bytes, bytes]) -> None:
        self.redis.flushdb()
        if held:
            self.redis.mset(held)

    def outcomes(self) -> list[tuple[int, int]]:
        """Partition and offset of every outcome there is, of decisions and dead letters."""
        return sorted(
            self.ask(
                "SELECT kafka_partition, kafka_offset FROM decisions WHERE kafka_topic = %(topic)s UNION ALL"
                " SELECT kafka_partition, kafka_offset FROM dead_letters WHERE kafka_topic = %(topic)s"
            )
        )

    def ask(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.settings.postgres_migrator_dsn)) as connection, connection:
            cursor = connection.cursor()
            cursor.execute(statement, {"topic": self.settings.topic, **values})
            return cursor.fetchall() if cursor.description else []

    def back_to(self, positions: dict[int, int]) -> None:
        """PostgreSQL as a backup of that time would hold it."""
        for partition, until in positions.items():
            for statement in (
                "DELETE FROM decisions WHERE kafka_offset >= %(until)s AND",
                "DELETE FROM dead_letters WHERE kafka_offset >= %(until)s AND",
                "DELETE FROM ledger_ranges WHERE first_offset >= %(until)s AND",
                "UPDATE ledger SET committed_until = %(until)s WHERE",
            ):
                where = "kafka_topic = %(topic)s AND kafka_partition = %(partition)s"
                self.ask(f"{statement} {where}", until=until, partition=partition)


@pytest.fixture
def live(stack: Settings, tmp_path: Path) -> Iterator[Live]:
    stream = Live(stack, tmp_path)
    stream.redis.flushdb()
    yield stream
    stream.redis.flushdb()


def payments(first: int, count: int, *, hours: float = 1.0, users: int = USERS) -> list[dict[str, Any]]:
    """Every ninth behind the time of those before it; with repeats, conflicts, other currencies and bad records."""
    made: list[dict[str, Any]] = []
    for number in range(first, first + count):
        one = {
            "transaction_id": f"p{number}",
            "user_id": f"user {number * 5 % users}",
            "amount": 5.0 + number % 50,
            "timestamp": (START + timedelta(hours=hours * (number - 30 * (number % 9 == 8)))).isoformat(),
            "merchant": f"shop {number % 11}",
            "location": "Zürich",
            "payment_method": "card",
        }
        made.append(one)
        if number % 10 == 3:
            made.append(one)
        if number % 10 == 5:
            made.append(one | {"amount": 1.0})
        if number % 10 == 7:
            made += [one | {"transaction_id": f"e{number}", "currency": "EUR"}, one | {"amount": "much"}]
    return made


def test_after_redis_was_emptied_the_log_gives_the_same_bytes(live: Live) -> None:
    live.run(payments(0, 60), payments(60, 40))
    before = live.held()
    live.redis.flushdb()
    with pytest.raises(StateLost):
        live.decide()
    done = rebuild(live.settings)
    assert live.held() == before and len(before) == USERS + PARTITIONS
    assert {one.source for one in done.partitions} == {"the log"}
    assert sum(one.users for one in done.partitions) == USERS
    assert not live.decide()  # there is nothing left to decide
    ((told,),) = live.ask("SELECT after FROM audit WHERE action = 'rebuild_states' AND subject = %(topic)s")
    assert told == done.as_json()


def test_one_partition_alone_is_rebuilt_and_the_others_are_left(live: Live) -> None:
    live.run(payments(0, 60))
    before = live.held()
    live.redis.delete(*(key for key in before if key.startswith(b"vigil:{1}")))
    rebuild(live.settings, [1])
    assert live.held() == before
    with pytest.raises(BadConfiguration, match="partitions 0 to 1"):
        rebuild(live.settings, [PARTITIONS])


def test_a_snapshot_of_a_running_stream_and_the_log_since_give_the_same_bytes(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records move on while it is taken: some hold payments from beyond the watermark, others do not."""
    live.run(payments(0, 50))
    watermarks = live.ledger.positions()
    read = StateStore.records

    def meanwhile(store: StateStore) -> Iterator[Any]:
        found = read(store)
        first = next(found)
        live.run(payments(50, 30))
        yield first
        yield from read(store)  # those again, and the others as they are now: SCAN may repeat

    monkeypatch.setattr(StateStore, "records", meanwhile)
    kept = snapshots.take(live.settings)
    monkeypatch.undo()
    assert {partition: part.folded_until for partition, part in kept.parts.items()} == watermarks
    assert any(part.reaches > part.folded_until for part in kept.parts.values())
    live.run(payments(80, 30))
    before = live.held()
    live.redis.flushdb()
    done = rebuild(live.settings)
    assert {one.source for one in done.partitions} == {f"snapshot {kept.name}"}
    assert {one.partition: one.start for one in done.partitions} == watermarks
    assert live.held() == before


def test_with_postgres_from_an_older_backup_states_are_taken_back_and_each_payment_decided_once(live: Live) -> None:
    live.run(payments(0, 50))
    old = snapshots.take(live.settings)
    live.run(payments(50, 20))
    backup, then = live.ledger.positions(), live.held()
    live.run(payments(70, 30))
    late = snapshots.take(live.settings)
    after, outcomes = live.held(), live.outcomes()
    live.back_to(backup)
    with pytest.raises(StateAhead):
        live.decide()
    done = rebuild(live.settings)
    assert live.held() == then
    assert {one.source for one in done.partitions} == {f"snapshot {old.name}"}
    assert all(late.name in why and "the ledger only up to" in why for why in done.passed_over)
    live.decide()
    assert live.held() == after
    assert live.outcomes() == outcomes == sorted(set(outcomes))


def test_redis_from_an_older_snapshot_of_its_own_is_folded_on_and_nothing_decided_twice(live: Live) -> None:
    live.run(payments(0, 50))
    older, committed = live.held(), live.ledger.positions()
    live.run(payments(50, 30))
    newest, outcomes = live.held(), live.outcomes()
    live.put_back(older)
    assert live.starts() == committed
    taken = live.decide()
    assert not any(one.outcomes for one in taken)
    assert live.held() == newest and live.outcomes() == outcomes


def test_a_spoilt_snapshot_is_passed_over_and_only_the_newest_are_kept(live: Live) -> None:
    live.run(payments(0, 30))
    settings = live.settings.model_copy(update={"state_snapshots": 2})
    taken = [snapshots.take(settings).name for _ in range(3)]
    assert snapshots.names(settings) == [taken[2], taken[1]]
    file = snapshots.folder_of(settings) / taken[2] / "partition-0.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (snapshots.folder_of(settings) / taken[1] / snapshots.MANIFEST).write_text("{")
    before = live.held()
    live.redis.flushdb()
    done = rebuild(settings)
    assert [one.source for one in done.partitions] == ["the log", f"snapshot {taken[2]}"]
    assert len(done.passed_over) == 2 and "not what was written" in done.passed_over[0]
    assert live.held() == before


def test_a_snapshot_of_a_topic_that_was_made_again_is_of_no_use(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    live.run(payments(0, 30))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.log.topic_id", lambda settings: "another")
        snapshots.take(live.settings)
    assert {one.source for one in rebuild(live.settings).partitions} == {"the log"}


def seeded(live: Live, name: str = "first") -> None:
    """A history as first live states, of all users and one more."""
    rows = [
        {
            **{name: one[name] for name in ("transaction_id", "user_id", "merchant", "location", "payment_method")},
            "amount": one["amount"],
            "event_time": datetime.fromisoformat(one["timestamp"]) - timedelta(days=5),
            "arrival_time": START - timedelta(days=5) + timedelta(minutes=number),
        }
        for number, one in enumerate(payments(1_000, 40, users=USERS + 1))
        if isinstance(one["amount"], float)
    ]
    folder = live.settings.home / "data" / name
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, HISTORY_SCHEMA), folder / "history.parquet")
    replay(live.settings, name, online=True)


def forget_log(live: Live, until: dict[int, int]) -> None:
    """As retention does: Kafka deletes the oldest records."""
    asked = [TopicPartition(live.settings.topic, partition, offset) for partition, offset in until.items()]
    for deleted in live.admin.delete_records(asked).values():
        deleted.result(30)


def test_states_that_began_with_a_history_are_rebuilt_from_it_and_the_log(live: Live) -> None:
    seeded(live)
    live.run(payments(0, 60))
    before = live.held()
    live.redis.flushdb()
    done = rebuild(live.settings)
    assert {one.source for one in done.partitions} == {"history first"}
    assert live.held() == before
    assert sum(one.users for one in done.partitions) == USERS + 1


def test_what_neither_log_nor_snapshot_holds_needs_a_history_that_does(live: Live) -> None:
    seeded(live)
    live.run(payments(0, 60))
    export(live.settings, "kept", with_history=True)
    until = live.ledger.positions()
    live.run(payments(60, 20))
    before = live.held()
    forget_log(live, until)
    live.redis.flushdb()
    with pytest.raises(StateSourceMissing, match="the log begins at offset") as missing:
        rebuild(live.settings)
    assert "--from-history" in missing.value.remedy
    rebuild(live.settings, history="kept")
    counts = {user: show(live.settings, user).aggregates for user in (f"user {n}" for n in range(USERS))}
    live.put_back(before)
    for user, found in counts.items():
        wanted = show(live.settings, user).aggregates
        for name in ("payments", "first_seen", "last_seen", "merchants_recent", "payments_7d"):
            assert found[name] == wanted[name], (user, name)

    forget_log(live, live.ledger.positions())  # and with them payments the history does not have
    with pytest.raises(StateSourceMissing, match="payments came between"):
        rebuild(live.settings, history="kept")


def test_records_that_kafka_deleted_undecided_are_passed_over_only_where_an_operator_says_so(live: Live) -> None:
    live.run(payments(0, 60))
    decided = live.ledger.positions()
    live.send(payments(60, 40))
    gone = {partition: until + 2 for partition, until in decided.items()}
    forget_log(live, gone)
    with pytest.raises(RecordsGone, match=r"offsets \d+ to \d+ have no outcome"):
        live.starts()
    job = Job(live.settings, StreamMetrics(CollectorRegistry()), accept_gone=True)
    starts = json.loads(job.starting_offsets())[live.settings.topic]
    assert {int(partition): offset for partition, offset in starts.items()} == gone
    assert live.starts() == live.ledger.positions() == gone, "the ledger knows, so the next start need not be told"
    live.decide()
    assert live.held() and min(live.ledger.positions().values()) > min(gone.values())


def test_states_that_lack_what_kafka_deleted_are_to_be_rebuilt(live: Live) -> None:
    live.run(payments(0, 30))
    held = live.held()
    live.run(payments(30, 30))
    live.put_back(held)
    forget_log(live, live.ledger.positions())
    with pytest.raises(StateBehind) as caught:
        live.starts()
    assert caught.value.remedy == "vigil state rebuild"


def test_the_merchants_that_were_lost_with_the_states_come_back(live: Live) -> None:
    newest = snapshot_of({"shop 1": (1.0, 1.0, 1.0, 1.0)}, int(START.timestamp() * 1e6))
    online.keep(live.settings, newest)
    live.send(payments(0, 20))
    live.decide(newest)
    live.redis.flushdb()
    assert rebuild(live.settings).merchants == newest.id
    with closing(SnapshotStore(live.settings.redis_url)) as store:
        assert store.current() == newest.id

    live.redis.flushdb()
    live.ask("DELETE FROM merchant_snapshots WHERE id = %(id)s", id=newest.id)
    done = rebuild(live.settings)
    assert (done.merchants, done.merchants_lost) == (None, newest.id)


def test_a_rebuild_is_refused_while_the_stream_runs_and_stops_when_another_takes_over(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.run(payments(0, 30))
    with only_one(live.settings, "stream"), pytest.raises(AlreadyRunning) as refused:
        rebuild(live.settings)
    assert "vigil down" in refused.value.remedy
    replace = StateStore.replace

    def taken_over(store: StateStore, partition: int, *others: Any) -> None:
        live.redis.set(fence_key(partition), "a job elsewhere")
        replace(store, partition, *others)

    before = live.held()
    monkeypatch.setattr(StateStore, "replace", taken_over)
    with pytest.raises(Fenced):
        rebuild(live.settings)
    assert live.held() == before


def test_a_rebuild_that_broke_off_is_lost_state_until_the_next(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    live.run(payments(0, 30))
    before = live.held()

    def killed(keys: list[bytes], states: Any) -> Iterator[dict[bytes, bytes]]:
        yield {keys[0]: states[0].tobytes()}
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("streaming.states._in_commands", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(live.settings)
    with pytest.raises(StateLost):
        live.decide()
    rebuild(live.settings)
    assert live.held() == before


def test_silent_users_are_swept_and_what_they_do_later_is_as_if_they_had_not_been(live: Live) -> None:
    silent, busy = payments(0, 40), payments(40, 40, users=3)
    away = (SILENCE + DAY) / DAY
    for one in busy:
        one["timestamp"] = (datetime.fromisoformat(one["timestamp"]) + timedelta(days=away)).isoformat()
    live.run(silent, busy)
    assert sweep(live.settings).swept == 0, "silent by event time only: payments of then may still come"

    live.ask(
        "UPDATE ledger_ranges SET committed_at = now() - interval '38 days' WHERE kafka_topic = %(topic)s"
        " AND first_offset = 0"
    )
    unswept = live.held()
    done = sweep(live.settings)
    gone = set(unswept) - set(live.held())
    assert (done.swept, done.silent, done.records) == (len(gone), len(gone), USERS)
    assert 0 < len(gone) < USERS and show(live.settings, busy[0]["user_id"])
    swept = {one["user_id"] for one in silent if state_key_of(live, one["user_id"]) in gone}
    with pytest.raises(StateUnknown):
        show(live.settings, min(swept))

    back = payments(200, 30)
    for one in back:
        one["timestamp"] = (datetime.fromisoformat(one["timestamp"]) + timedelta(days=away)).isoformat()
    live.run(back)
    after = live.held()
    assert gone <= set(after)
    live.put_back(unswept)
    live.decide()  # folds them once more, into the records that were never swept
    assert live.held() == after


def state_key_of(live: Live, user: str) -> bytes:
    return state_key(user, int(partitions_of(pa.array([user]), PARTITIONS)[0]))


def test_a_record_that_is_written_meanwhile_is_not_swept(live: Live) -> None:
    live.run(payments(0, 30))
    partition, users, values = next(iter(live.states.records()))
    assert len(users) >= 2
    live.redis.set(state_key(users[0], partition), b"newer")
    assert live.states.forget(partition, users, values) == len(users) - 1
    assert live.redis.get(state_key(users[0], partition)) == b"newer"


def test_the_days_work_keeps_and_sweeps_and_leaves_an_unused_stream_alone(live: Live) -> None:
    daily.keep_states(live.settings, date(2026, 3, 1))
    assert snapshots.names(live.settings) == []
    live.run(payments(0, 20))
    daily.keep_states(live.settings, date(2026, 3, 1))
    assert len(snapshots.names(live.settings)) == 1
    live.redis.flushdb()
    with pytest.raises(StateLost):
        daily.keep_states(live.settings, date(2026, 3, 2))
    assert len(snapshots.names(live.settings)) == 1


def test_a_redis_that_may_evict_states_is_refused(live: Live) -> None:
    check_redis(live.settings)
    live.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(BadConfiguration, match="allkeys-lru"):
            check_redis(live.settings)
    finally:
        live.redis.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
def vigil(live: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line on the test's own topic and states."""
    settings = live.settings
    names = ("home", "topic", "partitions", "kafka_bootstrap", "postgres_dsn", "postgres_reader_dsn", "redis_url")
    for name in names:
        monkeypatch.setenv(f"VIGIL_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: CliRunner().invoke(app, ["state", *arguments])


def test_the_commands_tell_what_they_did(live: Live, vigil: Callable[..., Result]) -> None:
    live.run(payments(0, 60))
    shown = vigil("show", "user 0")
    assert shown.exit_code == 0 and "merchants known" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    told = json.loads(vigil("show", "user 0", "--json").stdout)
    assert told["aggregates"]["payments"] == len(told["ring"]) and "p0" not in json.dumps(told)
    assert isinstance(vigil("show", "nobody").exception, StateUnknown)

    counted = json.loads(vigil("stats", "--json").stdout)
    assert (counted["records"], counted["bytes"]) == (USERS, USERS * told["bytes"])
    assert counted == {**sizes(live.settings).as_json(), "memory": counted["memory"]}
    assert "records" in vigil("stats").stdout

    assert "complete up to offset" in vigil("snapshot").stdout
    assert f"0 of {USERS} records swept" in vigil("sweep").stdout
    live.redis.flushdb()
    assert "users from snapshot" in vigil("rebuild", "--partition", "1", "--partition", "0").stdout
    assert json.loads(vigil("rebuild", "--json").stdout)["passed_over"] == []
    assert isinstance(vigil("rebuild", "--partition", "0", "--from-history", "x").exception, BadConfiguration)
