"""The producer without Kafka: where payments come from, defects and their counts, the pace."""

from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo import labels
from feature_repo.errors import BadConfiguration
from feature_repo.parser import parse
from feature_repo.settings import Settings, load
from feature_repo.transaction import SCHEMA
from pipelines import defects, sources
from pipelines.defects import DAMAGES, NEAR, STANDARD, Counts, Defects
from pipelines.history import import_history
from pipelines.produce import CATCH_UP, TICK_S, Pace, due_labels
from pipelines.simulator import folder, world
from pipelines.sources import Report

START = date(2025, 6, 1)
DAYS = 4
NOW = datetime(2025, 6, 8, 12, tzinfo=UTC)


class SetClock:
    """A clock that moves only when slept on, or by hand."""

    def __init__(self, now: datetime = NOW) -> None:
        self.epoch = now.timestamp()
        self.passed = 0.0

    def now_us(self) -> int:
        return int((self.epoch + self.passed) * 1e6)

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    folder.write(world.build(world.Options(users=400, seed=8, start=START)), DAYS, home / "made")
    settings = load(home=home)
    import_history(settings, home / "made" / "history.parquet", "sim")
    return settings


def _table(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(list(batches), SCHEMA)


# ---- sources ----


def test_a_data_set_is_streamed_as_it_stands(settings: Settings) -> None:
    table = _table(sources.from_history(settings, "sim", SetClock()))
    again = _table(sources.from_history(settings, "sim", SetClock()))
    assert table.num_rows > 1_000
    assert table.equals(again)
    assert _table(sources.from_history(settings, "sim", SetClock(), count=77)).equals(table.slice(0, 77))


def test_days_can_be_chosen(settings: Settings) -> None:
    second = START + timedelta(days=1)
    table = _table(sources.from_history(settings, "sim", SetClock(), first=second, last=second))
    days = {time.date() for time in table["event_time"].to_pylist()}
    assert days == {second}


def test_shifting_puts_the_newest_sent_payment_at_now_and_keeps_order_and_gaps(settings: Settings) -> None:
    table = _table(sources.from_history(settings, "sim", SetClock(), count=500))
    moved = _table(sources.from_history(settings, "sim", SetClock(), shift_to_now=True, count=500))
    assert pc.max(moved["event_time"]).as_py() == NOW
    before, after = (t["event_time"].cast(pa.int64()).to_numpy() for t in (table, moved))
    assert len(set(after - before)) == 1
    same = [name for name in SCHEMA.names if name not in ("event_time", "transaction_id")]
    assert moved.select(same).equals(table.select(same))


def test_shifted_payments_have_new_ids_of_their_own_in_every_run(settings: Settings) -> None:
    clock = SetClock()
    runs = []
    for _ in range(2):
        runs.append(
            _table(sources.from_history(settings, "sim", clock, shift_to_now=True))["transaction_id"].to_pylist()
        )
        clock.sleep(2)
    assert len({*runs[0], *runs[1]}) == len(runs[0]) + len(runs[1])


def test_people_go_on_after_their_history_until_now(settings: Settings) -> None:
    history = _table(sources.from_history(settings, "sim", SetClock()))
    table = _table(sources.from_people(settings, "sim", SetClock()))
    assert not set(table["transaction_id"].to_pylist()) & set(history["transaction_id"].to_pylist())
    newest = pc.max(table["event_time"]).as_py()
    assert NOW - timedelta(hours=1) < newest < NOW
    known = set(history["user_id"].to_pylist())
    assert np.mean([user in known for user in table["user_id"].to_pylist()]) > 0.9


def test_reports_are_those_learnt_while_the_people_go_on(settings: Settings) -> None:
    late = SetClock(NOW + timedelta(days=20))
    known = sources.reports(settings, "sim", late)
    begins = datetime.combine(START + timedelta(days=DAYS), datetime.min.time(), UTC).timestamp() * 1e6
    assert known == sorted(known) and begins <= known[0].label_time and known[-1].label_time <= late.now_us()
    history, after = (
        set(_table(batches)["transaction_id"].to_pylist())
        for batches in (sources.from_history(settings, "sim", late), sources.from_people(settings, "sim", late))
    )
    named = {report.transaction_id for report in known}
    assert named & history and named & after and named <= history | after


def test_a_report_is_due_once_the_stream_has_come_to_its_time_and_is_a_label() -> None:
    waiting = deque([Report(1_000_000, "t1"), Report(2_000_000, "t2"), Report(3_000_000, "t3")])
    due = due_labels(waiting, 2_000_000)
    assert [key for _, key in due] == [b"t1", b"t2"] and [one.transaction_id for one in waiting] == ["t3"]
    label = labels.parse(due[0][0], NOW, 0)
    assert (label.transaction_id, label.is_fraud, label.source) == ("t1", True, "simulator")
    assert label.label_time == datetime.fromtimestamp(1, UTC)


def test_people_without_a_history_begin_thirty_days_ago(settings: Settings) -> None:
    first = next(sources.from_people(settings, None, SetClock()))
    assert pc.min(first["event_time"]).as_py().date() == NOW.date() - timedelta(days=30)


def test_a_history_that_ends_in_the_future_cannot_go_on_yet(settings: Settings) -> None:
    with pytest.raises(BadConfiguration, match="ends in the future"):
        next(sources.from_people(settings, "sim", SetClock(datetime(2025, 6, 2, tzinfo=UTC))))


def test_an_unknown_data_set_is_named(settings: Settings) -> None:
    with pytest.raises(BadConfiguration, match="no data set nowhere"):
        sources.from_history(settings, "nowhere", SetClock())


# ---- defects ----


@pytest.mark.parametrize("kind", range(len(DAMAGES)))
def test_each_damage_gets_the_code_it_is_counted_under(settings: Settings, kind: int) -> None:
    code, damage = DAMAGES[kind]
    batch = _table(sources.from_history(settings, "sim", SetClock(), count=50)).combine_chunks().to_batches()[0]
    good = defects.messages(iter([batch]), Defects(), Counts())
    damaged = [damage(value or b"") for value, _ in next(good)]
    parsed = parse(pa.array(damaged, pa.binary()), np.full(50, SetClock().now_us()))
    assert set(parsed.rejects.codes) == {code.value}
    assert len(parsed.rejects.codes) == 50


def test_without_defects_messages_are_the_payments_under_their_user(settings: Settings) -> None:
    table = _table(sources.from_history(settings, "sim", SetClock()))
    counts = Counts()
    sent = [m for batch in defects.messages(iter(table.to_batches()), Defects(), counts) for m in batch]
    parsed = parse(pa.array([value for value, _ in sent], pa.binary()), np.full(len(sent), SetClock().now_us()))
    assert pa.Table.from_batches([parsed.payments]).equals(table)
    assert [key.decode() for _, key in sent if key] == table["user_id"].to_pylist()
    assert (counts.payments, counts.duplicates, counts.unkeyed, dict(counts.malformed)) == (table.num_rows, 0, 0, {})


def test_counts_are_exactly_what_is_in_the_stream(settings: Settings) -> None:
    table = _table(sources.from_people(settings, "sim", SetClock()))
    rates = Defects(malformed=0.03, duplicate=0.05, unkeyed=0.02, late=0.04, seed=3)
    counts = Counts()
    sent = [m for batch in defects.messages(iter(table.to_batches(max_chunksize=300)), rates, counts) for m in batch]
    parsed = parse(pa.array([value for value, _ in sent], pa.binary()), np.full(len(sent), SetClock().now_us()))
    assert Counter(parsed.rejects.codes) == counts.malformed
    values = [sent[row][0] for row in parsed.rows]
    assert len(set(values)) == counts.payments == table.num_rows
    assert len(values) - len(set(values)) == counts.duplicates
    assert sum(key is None for _, key in sent) == counts.unkeyed
    assert counts.late == _behind_newest(parsed.payments, values)
    for name in ("duplicates", "unkeyed", "late"):
        assert 0.5 < getattr(counts, name) / table.num_rows / getattr(rates, name.removesuffix("s")) < 2


def _behind_newest(payments: pa.RecordBatch, values: list[bytes | None]) -> int:
    """The plain meaning of late, without repeats."""
    newest: dict[str, datetime] = {}
    seen: set[bytes | None] = set()
    late = 0
    for user, time, value in zip(
        payments["user_id"].to_pylist(), payments["event_time"].to_pylist(), values, strict=True
    ):
        if value not in seen:
            seen.add(value)
            late += user in newest and time < newest[user]
            newest[user] = max(newest.get(user, time), time)
    return late


def test_a_repeat_comes_soon_after_its_first_time(settings: Settings) -> None:
    table = _table(sources.from_history(settings, "sim", SetClock()))
    sent = [m for batch in defects.messages(iter(table.to_batches()), Defects(duplicate=0.1), Counts()) for m in batch]
    first: dict[bytes | None, int] = {}
    gaps = [place - first[value] for place, (value, _) in enumerate(sent) if first.setdefault(value, place) != place]
    assert gaps
    assert max(gaps) <= 2 * NEAR + 2


def test_the_same_seed_gives_the_same_stream(settings: Settings) -> None:
    def stream(seed: int) -> list[list[defects.Message]]:
        batches = sources.from_history(settings, "sim", SetClock())
        rates = Defects(malformed=0.02, duplicate=0.02, unkeyed=0.02, late=0.02, seed=seed)
        return list(defects.messages(batches, rates, Counts()))

    assert stream(1) == stream(1)
    assert stream(1) != stream(2)


def test_defects_are_read_from_text() -> None:
    assert Defects.of("standard") == STANDARD
    assert Defects.of("malformed=0.5, seed=4") == Defects(malformed=0.5, seed=4)
    for text in ("late", "late=often", "later=0.1", "late=1.5", ""):
        with pytest.raises(BadConfiguration):
            Defects.of(text)


# ---- pace ----


def test_the_rate_is_kept_over_a_second_and_over_a_minute() -> None:
    clock = SetClock()
    pace = Pace(250.0, clock)
    sent_after: dict[int, int] = {}
    while clock.passed < 60:
        pace.due(1_000)
        sent_after[int(clock.passed)] = pace.sent
    for second in (0, 1, 10, 58):
        assert abs(sent_after[second] - 250 * (second + 1)) <= 3


def test_a_delay_is_caught_up_at_twice_the_rate_and_no_faster() -> None:
    clock = SetClock()
    pace = Pace(1_000.0, clock)
    pace.due(10)
    clock.sleep(2.0)  # the broker stood still
    assert pace.behind_s == pytest.approx(2.0, abs=0.01)
    began, sent = clock.passed, pace.sent
    while pace.behind_s > 2 * TICK_S:
        pace.due(10_000)
    assert (pace.sent - sent) / (clock.passed - began) == pytest.approx(CATCH_UP * 1_000, rel=0.05)


def test_slow_rates_send_one_at_a_time() -> None:
    clock = SetClock()
    pace = Pace(0.5, clock)
    assert [pace.due(5) for _ in range(3)] == [1, 1, 1]
    assert clock.passed == pytest.approx(4.0, abs=2 * TICK_S)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="rate"):
        Pace(0.0, SetClock())
