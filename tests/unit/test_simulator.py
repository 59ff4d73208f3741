"""The simulator: seeded, continuous, and saying about fraud only what its labels say."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import BadConfiguration
from feature_repo.features import Reason
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines.simulator import days as days_of
from pipelines.simulator import folder, fraud, genuine, world
from pipelines.simulator.draws import scrambled
from pipelines.simulator.world import DAY_US, HOUR_US, Options, Rows, World

DAYS = 30


@pytest.fixture(scope="module")
def people() -> World:
    return world.build(Options(users=3_000, seed=11))


@pytest.fixture(scope="module")
def month(people: World) -> list[days_of.Day]:
    return list(days_of.stream(people, 0, DAYS))


@pytest.fixture(scope="module")
def history(people: World, month: list[days_of.Day]) -> pa.Table:
    return pa.Table.from_batches([days_of.history(people, day) for day in month])


def _joined(month: list[days_of.Day], column: str) -> np.ndarray:
    return np.concatenate([getattr(day.rows, column) for day in month])


def test_the_same_seed_gives_identical_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder.write(world.build(Options(users=300, seed=5)), 10, tmp_path / name)
    for file in (folder.HISTORY, folder.TRUTH, folder.MANIFEST):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_seed_gives_other_payments(tmp_path: Path) -> None:
    for seed in (5, 6):
        folder.write(world.build(Options(users=300, seed=seed)), 10, tmp_path / str(seed))
    first, second = (pq.read_table(tmp_path / seed / folder.HISTORY) for seed in ("5", "6"))
    assert not set(first["transaction_id"].to_pylist()) & set(second["transaction_id"].to_pylist())
    assert first["amount"].to_pylist()[:100] != second["amount"].to_pylist()[:100]


def test_a_stream_that_begins_later_goes_on_exactly_where_the_history_ended(
    people: World, month: list[days_of.Day]
) -> None:
    for ours, theirs in zip(month[20:], days_of.stream(people, 20, DAYS - 20), strict=True):
        assert days_of.history(people, ours).equals(days_of.history(people, theirs))
        assert days_of.truth(people, ours).equals(days_of.truth(people, theirs))


def test_the_manifest_makes_the_same_world_again(tmp_path: Path) -> None:
    made = world.build(Options(users=200, seed=9, start=date(2024, 2, 28), difficulty=0.2, regime_day=3))
    folder.write(made, 4, tmp_path)
    again, first_day = folder.world_of(tmp_path)
    assert again.options == made.options
    assert first_day == 4
    written = pq.read_table(tmp_path / folder.HISTORY)
    assert written.equals(pa.Table.from_batches([days_of.history(again, d) for d in days_of.stream(again, 0, 4)]))


def test_history_stands_in_order_of_arrival_with_unique_ids(history: pa.Table) -> None:
    assert history.schema == HISTORY_SCHEMA
    arrival = history["arrival_time"].cast(pa.int64()).to_numpy()
    assert (np.diff(arrival) >= 0).all()
    assert pc.count_distinct(history["transaction_id"]).as_py() == history.num_rows


def test_some_payments_arrive_after_later_ones_of_the_same_user(month: list[days_of.Day]) -> None:
    user, time = _joined(month, "user"), _joined(month, "time")
    order = np.argsort(user, kind="stable")
    behind = (np.diff(user[order]) == 0) & (np.diff(time[order]) < 0)
    assert 0 < behind.mean() < 0.01


def test_fraud_is_rare_and_genuine_payments_go_on_meanwhile(people: World, month: list[days_of.Day]) -> None:
    mechanism, user = _joined(month, "mechanism"), _joined(month, "user")
    assert 0.001 < (mechanism > 0).mean() < 0.01
    victims = np.unique(user[mechanism > 0])
    assert np.isin(user[mechanism == 0], victims).sum() > 10 * (mechanism > 0).sum()


def test_every_mechanism_occurs_and_about_one_payment_in_a_hundred_is_odd_but_genuine(
    month: list[days_of.Day],
) -> None:
    mechanism, odd = _joined(month, "mechanism"), _joined(month, "odd")
    assert set(np.unique(mechanism)) == set(range(len(fraud.MECHANISM_NAMES))) - {fraud.NEW_CODE}
    assert set(np.unique(odd)) == set(range(len(genuine.ODDITIES)))
    assert 0.005 < (odd[mechanism == 0] > 0).mean() < 0.025


def test_reports_come_about_a_week_later_and_at_most_after_sixty_days(month: list[days_of.Day]) -> None:
    reported = np.concatenate([day.reported for day in month])
    arrival = np.concatenate([day.arrival for day in month])
    delay = (reported - arrival)[reported > 0] / DAY_US
    assert 5.5 < np.median(delay) < 8.5
    assert delay.min() > 0
    assert delay.max() <= 60


def test_a_few_frauds_are_never_reported_and_a_few_genuine_payments_are() -> None:
    month = list(days_of.stream(world.build(Options(users=4_000, seed=2, prevalence=0.05)), 0, 20))
    mechanism, reported = _joined(month, "mechanism"), np.concatenate([day.reported for day in month])
    assert 0.02 < (reported[mechanism > 0] == 0).mean() < 0.05
    assert 0.0005 < (reported[mechanism == 0] > 0).mean() < 0.002


def test_ids_say_nothing_about_labels(people: World) -> None:
    month = list(days_of.stream(world.build(replace(people.options, prevalence=0.05)), 0, DAYS))
    is_fraud = _joined(month, "mechanism") > 0
    ids = pa.chunked_array([days_of.transaction_ids(people, day) for day in month])
    number = np.array([int(text[3:], 16) for text in ids.to_pylist()])
    assert abs(_area_under_curve(number, is_fraud) - 0.5) < 0.02
    # The number of a user: what is left is that some users are hit and others are not.
    hit = np.isin(np.arange(3_000), _joined(month, "user")[is_fraud])
    assert abs(_area_under_curve(np.arange(3_000), hit) - 0.5) < 0.05


def _area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = np.arange(1, len(score) + 1)
    count = positive.sum()
    return float((rank[positive].sum() - count * (count + 1) / 2) / (count * (len(score) - count)))


def test_no_raw_category_gives_the_label_away(history: pa.Table, month: list[days_of.Day]) -> None:
    is_fraud = _joined(month, "mechanism") > 0
    for column in ("location", "payment_method", "merchant_category", "channel"):
        codes = history[column].combine_chunks().dictionary_encode().indices.to_numpy()
        share = np.bincount(codes, weights=is_fraud) / np.bincount(codes)
        assert share[np.bincount(codes) > 500].max() < 0.1


def test_users_pay_in_their_own_hours_and_at_their_own_merchants(month: list[days_of.Day], people: World) -> None:
    user, time, mechanism = (_joined(month, name) for name in ("user", "time", "mechanism"))
    hour = (time[mechanism == 0] / 3.6e9) % 24
    distance = np.abs((hour - people.people.hour[user[mechanism == 0]] + 12) % 24 - 12)
    assert np.median(distance) < 3.0
    merchant = _joined(month, "merchant")
    for chosen in np.argsort(np.bincount(user))[-5:]:
        visited = np.bincount(merchant[user == chosen])
        assert np.sort(visited)[-15:].sum() > 0.5 * visited.sum()


def test_the_truth_names_each_fraud_once_with_reasons_of_the_catalogue(
    people: World, month: list[days_of.Day], history: pa.Table
) -> None:
    truth = pa.Table.from_batches([days_of.truth(people, day) for day in month])
    is_fraud = pa.array(_joined(month, "mechanism") > 0)
    assert truth["transaction_id"].to_pylist() == history["transaction_id"].filter(is_fraud).to_pylist()
    for row in truth.to_pylist():
        assert row["reasons"][0] == row["reason"]
        assert {Reason(reason) for reason in row["reasons"]}


def test_a_takeover_that_hides_its_device_is_not_told_by_it(people: World) -> None:
    busy = world.build(replace(people.options, prevalence=0.03))
    everything = Rows.joined([day.rows for day in days_of.stream(busy, 0, DAYS)])
    rows = everything.take(everything.mechanism == fraud.MECHANISM_NAMES.index("account_takeover"))
    told = fraud.true_reasons(people, rows, everything)
    owned = (rows.device >= 0) & (rows.device < fraud._STRANGE_DEVICES)
    usual = (rows.method[:, None] == people.people.method[rows.user]).all(axis=1) | (
        rows.method == people.people.method[rows.user, 0]
    )
    named = np.array([Reason.NEW_PAYMENT_METHOD in codes for codes in told])
    assert not named[owned & usual].any()
    assert named[rows.device >= fraud._STRANGE_DEVICES].all()
    assert (owned & usual).sum() > 5


def test_what_the_truth_calls_unlike_the_owner_he_seldom_does_himself(people: World, month: list[days_of.Day]) -> None:
    everything = Rows.joined([day.rows for day in month])
    honest = everything.take((everything.mechanism == 0) & (everything.odd == 0))
    shown = fraud._shown(people, honest, everything)
    for reason in (Reason.UNUSUAL_AMOUNT, Reason.BURST, Reason.UNUSUAL_HOUR):
        assert 0 < shown[reason].mean() < 2 * fraud.SELDOM, reason


def test_a_burst_is_told_by_the_owners_ways_and_across_midnight(people: World, month: list[days_of.Day]) -> None:
    """The same run, begun before midnight, with the card of one who pays seldom and of one who pays often."""
    rate = people.people.rate
    for user, told in ((int(rate.argmin()), True), (int(rate.argmax()), False)):
        start = people.midnight_us(3) - 5 * HOUR_US
        run = month[0].rows.take(np.zeros(4, np.int64))
        run = replace(
            run, user=np.full(4, user), time=start + np.arange(4) * 4 * HOUR_US, mechanism=np.ones(4, np.int8)
        )
        before, after = run.take(run.time < people.midnight_us(3)), run.take(run.time >= people.midnight_us(3))
        day = replace(month[3], rows=after, arrival=after.time, reported=np.zeros(len(after), np.int64), before=before)
        last = days_of.truth(people, day).to_pylist()[-1]
        assert (Reason.BURST in last["reasons"]) is told


def test_whoever_pays_at_a_compromised_terminal_pays_at_a_risky_merchant(
    people: World, month: list[days_of.Day]
) -> None:
    rows = Rows.joined([day.rows for day in month])
    taken = rows.take(rows.mechanism == fraud.COMPROMISED_CODE)
    stolen = replace(taken, mechanism=np.ones(len(taken), np.int8))
    assert len(stolen)
    assert all(Reason.RISKY_MERCHANT in codes for codes in fraud.true_reasons(people, stolen, rows))


def test_a_harder_world_has_fraud_closer_to_the_usual_amount() -> None:
    medians = []
    for difficulty in (0.0, 1.0):
        made = world.build(Options(users=3_000, seed=3, difficulty=difficulty, prevalence=0.02))
        rows = [day.rows for day in days_of.stream(made, 0, 10)]
        stolen = [row.take(row.mechanism == fraud.MECHANISM_NAMES.index("stolen_card")) for row in rows]
        log = np.concatenate(
            [np.log(r.cents / 100) - genuine.usual_log_amount(made, r.user, r.merchant) for r in stolen]
        )
        medians.append(np.median(log))
    assert medians[0] > medians[1] + 1.0


def test_a_regime_change_moves_genuine_amounts_from_its_day_on() -> None:
    amounts = []
    for day in (None, 5):
        made = world.build(Options(users=3_000, seed=3, regime_day=day))
        days = list(days_of.stream(made, 0, 10))
        amounts.append([np.log(d.rows.cents).mean() for d in days])
    assert amounts[0][:5] == amounts[1][:5]
    assert np.mean(amounts[1][5:]) > np.mean(amounts[0][5:]) + 0.1


def test_a_new_mechanism_begins_on_its_day_and_changes_nothing_before() -> None:
    mechanisms = []
    for day in (None, 5):
        made = world.build(Options(users=2_000, seed=3, prevalence=0.02, new_mechanism_day=day))
        mechanisms.append([d.rows.mechanism for d in days_of.stream(made, 0, 10)])
    for before, after in zip(mechanisms[0][:5], mechanisms[1][:5], strict=True):
        assert (before == after).all()
    assert not any((day == fraud.NEW_CODE).any() for day in mechanisms[0])
    assert all((day == fraud.NEW_CODE).any() for day in mechanisms[1][6:])


def test_a_compromised_merchant_is_reported_while_its_fraud_goes_on(people: World) -> None:
    quarter = list(days_of.stream(world.build(Options(users=3_000, seed=11, prevalence=0.01)), 0, 90))
    taken = [day.rows.mechanism == fraud.COMPROMISED_CODE for day in quarter]
    merchant = np.concatenate([day.rows.merchant[rows] for day, rows in zip(quarter, taken, strict=True)])
    time = np.concatenate([day.rows.time[rows] for day, rows in zip(quarter, taken, strict=True)])
    reported = np.concatenate([day.reported[rows] for day, rows in zip(quarter, taken, strict=True)])
    # How many reports of its earlier frauds had come in when each of them happened.
    known = [((merchant == m) & (reported > 0) & (reported < t)).sum() for m, t in zip(merchant, time, strict=True)]
    assert np.median(known) >= 3


def test_scrambled_numbers_are_a_permutation() -> None:
    numbers = scrambled(np.arange(200_000, dtype=np.uint64), seed=3)
    assert len(np.unique(numbers)) == 200_000
    assert numbers.max() < 1 << 40


@pytest.mark.parametrize(
    ("options", "named"),
    [({"users": 0}, "users"), ({"prevalence": 0.5}, "prevalence"), ({"difficulty": 2}, "difficulty")],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict[str, float], named: str) -> None:
    with pytest.raises(BadConfiguration, match=named):
        Options(**{"users": 10, "seed": 1, **options})  # type: ignore[arg-type]  # what is tested


def test_a_history_without_a_manifest_cannot_be_continued(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="not simulated"):
        folder.world_of(tmp_path)
