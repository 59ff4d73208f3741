import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.errors import (
    DependencyDown,
    Fenced,
    LedgerMoved,
    RowRefused,
    SchemaBreak,
    StateAhead,
    StateBehind,
    StateLost,
)
from feature_repo.hashing import partitions_of
from feature_repo.settings import Settings
from feature_repo.snapshot import Snapshot
from feature_repo.state import STATE_BYTES
from streaming.decisions import RULES_ONLY
from streaming.partition import Road, Taken
from streaming.records import Records
from streaming.scoring import Pin, Pins
from tests.unit.road_fakes import (
    CHALLENGER,
    PIN,
    FakeChallenger,
    FakeLedger,
    FakePublisher,
    FakeStates,
    rows_of,
    score_by_amount,
)
from tests.unit.streams import snapshot_of

NOW_US = 1_800_000_000_000_000
SETTINGS = Settings(partitions=1)


def payment(number: int, user: str = "u1", amount: float = 20.0, **other: Any) -> bytes:
    return json.dumps(
        {
            "transaction_id": f"t{number}",
            "user_id": user,
            "amount": amount,
            "timestamp": f"2027-01-15T07:{number % 60:02d}:00Z",
            "merchant": "Online Store",
            "location": "New York",
            "payment_method": "credit_card",
            **other,
        }
    ).encode()


def records(values: list[bytes | None], first: int = 0, partition: int = 0, moved: bool = False) -> Records:
    n = len(values)
    return Records(
        partition=partition,
        offsets=np.arange(first, first + n, dtype=np.int64),
        values=pa.array(values, pa.binary()),
        ingested=np.full(n, NOW_US, np.int64),
        moved=np.full(n, moved),
    )


class World:
    """One road over stores in memory."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.ledger, self.states, self.publisher = FakeLedger(), FakeStates(), FakePublisher()
        self.settings = settings
        self.challenger = FakeChallenger()
        self.road = self.another()

    def another(self) -> Road:
        return Road(
            self.settings,
            self.ledger,  # type: ignore[arg-type]  # the fakes have the same methods
            self.states,  # type: ignore[arg-type]
            self.publisher,  # type: ignore[arg-type]
            score_by_amount,
            self.challenger,
            clock=lambda: NOW_US / 1e6,
        )

    def take(
        self,
        values: list[bytes | None],
        first: int = 0,
        pin: Pin | None = PIN,
        accepted: frozenset[tuple[int, int, int]] = frozenset(),
        merchants: Snapshot | None = None,
    ) -> Taken:
        pins = Pins(pin, self.challenger.model)
        return self.road.take(records(values, first), pins, accepted, merchants)

    def documents(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(message["value"]) for name, _, message in self.publisher.sent if name == topic]


def test_every_offset_gets_exactly_one_outcome() -> None:
    world = World()
    values = [payment(1), b"{", None, payment(1), payment(1, amount=99.0), payment(2), payment(3, currency="EUR")]
    taken = world.take(values)
    outcomes = {document["kafka_offset"]: document["outcome"] for document in world.documents("decisions")}
    buried = {document["kafka_offset"]: document["code"] for document in world.documents("transactions.dlq")}
    assert outcomes == {0: "scored", 3: "duplicate", 5: "scored", 6: "unscored"}
    assert buried == {1: "NOT_JSON", 2: "TOMBSTONE", 4: "ID_CONFLICT"}
    assert sum(taken.outcomes.values()) == len(values)
    assert world.ledger.ranges[0].records == len(values)


def test_taking_a_range_again_changes_nothing() -> None:
    world = World()
    values: list[bytes | None] = [payment(1), payment(2), b"x"]
    world.take(values)
    before = (dict(world.states.records), list(world.ledger.ranges), list(world.publisher.sent))
    taken = world.take(values)
    assert not taken.outcomes
    assert (world.states.records, world.ledger.ranges, world.publisher.sent) == before


def test_a_crash_between_commit_and_save_only_folds_again() -> None:
    whole, broken = World(), World()
    first: list[bytes | None] = [payment(1), payment(2)]
    then: list[bytes | None] = [payment(3), payment(4)]
    whole.take(first)
    whole.take(then, first=2)
    broken.states.fail_save = True
    with pytest.raises(DependencyDown):
        broken.take(first)
    broken.take(first + then)
    assert broken.states.records == whole.states.records
    assert [(r.first, r.until) for r in broken.ledger.ranges] == [(0, 2), (2, 4)]


def test_an_unknown_commit_outcome_is_settled_by_the_ledger() -> None:
    world = World()
    world.ledger.fail_after_commit = True
    with pytest.raises(DependencyDown):
        world.take([payment(1)])
    taken = world.take([payment(1), payment(2)])
    assert taken.outcomes == {"scored": 1}
    assert [(r.first, r.until) for r in world.ledger.ranges] == [(0, 1), (1, 2)]


def test_another_claim_before_the_commit_stops_the_loser_without_a_trace() -> None:
    world = World()

    def steal(features: Any, pin: Any) -> Any:
        world.ledger.claim(0, "the other job")
        return score_by_amount(features, pin)

    world.road._scorer = steal
    with pytest.raises(LedgerMoved):
        world.take([payment(1)])
    assert not world.ledger.ranges and not world.states.records and not world.publisher.sent


def test_another_claim_before_the_save_fences_the_loser() -> None:
    world = World()
    commit = world.ledger.commit

    def commit_then_lose(*args: Any) -> None:
        commit(*args)
        world.states.claim(0, "the other job", untouched=False)

    world.ledger.commit = commit_then_lose  # type: ignore[method-assign]
    with pytest.raises(Fenced):
        world.take([payment(1)])
    assert not world.states.records


def test_a_job_that_slept_while_another_decided_is_fenced_and_calls_no_state_corrupt() -> None:
    world = World()
    claim = world.states.claim

    def claim_then_sleep(*args: Any, **kwargs: Any) -> int | None:
        folded = claim(*args, **kwargs)
        world.states.claim = claim  # type: ignore[method-assign]
        world.another().take(records([payment(1)]), Pins(PIN), frozenset(), None)
        return folded

    world.states.claim = claim_then_sleep  # type: ignore[method-assign]
    with pytest.raises(Fenced):
        world.take([payment(1)])
    assert len(world.ledger.ranges) == 1


def test_decisions_without_states_refuse_to_score_from_empty_history() -> None:
    world = World()
    world.take([payment(1)])
    world.states.folded.clear()
    with pytest.raises(StateLost):
        world.take([payment(2)], first=1)


def test_states_lost_between_claim_and_load_score_nothing() -> None:
    world = World()
    world.take([payment(1)])
    claim = world.states.claim

    def claim_then_lose(*args: Any, **kwargs: Any) -> int | None:
        folded = claim(*args, **kwargs)
        for held in (world.states.records, world.states.fences, world.states.folded):
            held.clear()
        return folded

    world.states.claim = claim_then_lose  # type: ignore[method-assign]
    with pytest.raises(DependencyDown, match="emptied"):
        world.take([payment(2)], first=1)
    assert world.ledger.committed[0] == 1
    world.states.claim = claim  # type: ignore[method-assign]
    with pytest.raises(StateLost):
        world.take([payment(2)], first=1)


def test_states_ahead_of_the_ledger_refuse() -> None:
    world = World()
    world.take([payment(1), payment(2)])
    world.ledger.committed[0] = 1
    with pytest.raises(StateAhead):
        world.take([payment(2)], first=1)


def test_a_running_job_refuses_states_that_came_back_older_and_the_next_one_folds_what_they_lack() -> None:
    calm, restored = World(), World()
    values = [payment(n) for n in range(4)]
    calm.take(values)
    restored.take(values[:1])
    backup = (dict(restored.states.records), dict(restored.states.folded))
    restored.take(values[1:3], first=1)
    restored.states.records, restored.states.folded = backup
    with pytest.raises(StateBehind):
        restored.take(values[3:], first=3)
    restored.take(values[1:], first=1)
    assert restored.states.records == calm.states.records


def test_offsets_without_a_record_behind_the_states_are_no_loss() -> None:
    world = World()
    world.states.fail_save = True
    with pytest.raises(DependencyDown):
        world.take([payment(1)], first=7)
    assert world.take([payment(1), payment(2)], first=7).outcomes == {"scored": 1}


def test_a_flood_of_bad_records_stops_before_anything_is_committed() -> None:
    world = World()
    values: list[bytes | None] = [payment(0), *[b"broken"] * 60]
    with pytest.raises(SchemaBreak) as stop:
        world.take(values)
    assert not world.ledger.ranges
    assert "0:1-60" in stop.value.remedy
    taken = world.take(values, accepted=frozenset({(0, 1, 60)}))
    assert taken.outcomes == {"scored": 1, "NOT_JSON": 60}


def test_without_a_model_payments_are_reviewed_not_approved() -> None:
    world = World()
    world.take([payment(1)], pin=None)
    document = world.documents("decisions")[0]
    assert (document["outcome"], document["unscored_reason"]) == ("unscored", "MODEL_DOWN")
    assert (document["decision"], document["anomaly_score"], document["model_version"]) == ("review", None, None)


def test_a_flagged_payment_is_an_alert_with_its_reason() -> None:
    world = World()
    world.take([payment(1), payment(2, amount=1e6)])
    alerts = world.documents("alerts")
    assert [alert["transaction_id"] for alert in alerts] == ["t2"]
    assert alerts[0]["anomaly_reasons"] == ["unusual_amount_for_user"]
    assert (alerts[0]["is_anomaly"], alerts[0]["decision"], alerts[0]["model_version"]) == (True, "review", "7")


def shadows(world: World, copy: int = 0) -> dict[bytes | None, tuple[bytes | None, bytes | None]]:
    """Challenger's version and score by transaction id and outcome."""
    return {
        (row["transaction_id"] or b"") + b" " + (row["outcome"] or b""): (
            row["challenger_version"],
            row["challenger_score"],
        )
        for row in rows_of(world.ledger.copies[copy])
    }


QUARTER = np.array(0.25, ">f4").tobytes()


def test_the_challengers_score_stands_beside_what_the_champion_scored_and_changes_nothing_else() -> None:
    alone, shadowed = World(), World()
    shadowed.challenger.model = CHALLENGER
    values: list[bytes | None] = [payment(1), payment(1), payment(2, currency="EUR"), payment(3, amount=1e6), b"{"]
    for world in (alone, shadowed):
        world.take(values)
    assert shadows(shadowed) == {
        b"t1 scored": (b"8", QUARTER),
        b"t1 duplicate": (None, None),
        b"t2 unscored": (None, None),
        b"t3 scored": (b"8", QUARTER),
    }
    assert set(shadows(alone).values()) == {(None, None)}
    assert alone.challenger.asked == 0
    assert shadowed.publisher.sent == alone.publisher.sent
    assert shadowed.states.records == alone.states.records


def test_a_challenger_that_gives_no_scores_costs_the_champions_rows_nothing() -> None:
    alone, shadowed = World(), World()
    shadowed.challenger.model, shadowed.challenger.score = CHALLENGER, None
    for world in (alone, shadowed):
        world.take([payment(1), payment(2)])
    assert shadowed.challenger.asked == 1
    assert shadowed.ledger.copies == alone.ledger.copies
    assert shadowed.publisher.sent == alone.publisher.sent


def test_where_the_champion_gave_no_score_the_challenger_is_not_asked() -> None:
    world = World()
    world.challenger.model = CHALLENGER
    world.take([payment(1)], pin=None)
    assert (world.challenger.asked, shadows(world)) == (0, {b"t1 unscored": (None, None)})


def test_rows_with_features_name_the_snapshot_their_merchants_were_looked_up_in() -> None:
    world = World()
    snapshot = snapshot_of({"Online Store": (5.0, 20.0, 0.0, 0.3)})
    world.take([payment(1), payment(1), payment(2, currency="EUR"), payment(3)], merchants=snapshot)
    world.take([payment(4)], first=4)
    first, second = world.ledger.copies
    assert first.count(snapshot.id.encode()) == 2  # neither the repeat nor the foreign payment has features
    assert b"ms_" not in second
    assert np.array(0.3, "<f4").tobytes() in first


def test_a_misplaced_payment_is_put_in_its_place_once() -> None:
    settings = Settings(partitions=8)
    world = World(settings)
    belongs = int(partitions_of(pa.array(["u1"]), 8)[0])
    wrong = (belongs + 1) % 8
    world.road.take(records([payment(1)], partition=wrong), Pins(PIN), frozenset(), None)
    assert [(p, k) for p, k, _, _ in world.publisher.again] == [(belongs, b"u1")]
    assert world.publisher.again[0][3] == {"vigil-origin": f"transactions-{wrong}-0", "vigil-placed": "8"}
    assert world.ledger.ranges[0].dead_letters == 1
    assert not world.documents("transactions.dlq")
    again = world.road.take(records([payment(1)], first=1, partition=wrong, moved=True), Pins(PIN), frozenset(), None)
    assert again.outcomes == {"KEY_MISMATCH": 1}
    assert len(world.publisher.again) == 1


def test_a_card_number_beside_the_contracts_fields_stays_out_of_what_is_kept_and_produced_again() -> None:
    world = World(Settings(partitions=2))
    users = pa.array([f"u{n}" for n in range(20)])
    elsewhere = users[partitions_of(users, 2, murmur2=True).tolist().index(1)].as_py()
    here = users[partitions_of(users, 2, murmur2=True).tolist().index(0)].as_py()
    note = {"note": "4111 1111 1111 1111", "device_id": "d1"}
    first, conflicting = payment(1, here, **note), payment(1, here, amount=99.0, **note)
    taken = world.take([first, conflicting, payment(2, elsewhere, **note)])
    assert taken.outcomes == {"scored": 1, "ID_CONFLICT": 1, "REKEYED": 1}
    kept = [bytes(row["payload"] or b"") for _, row in world.ledger.letters]
    ((_, _, again, _),) = world.publisher.again
    assert b"4111" not in b"".join([*kept, again])
    assert json.loads(again) == {**json.loads(payment(2, elsewhere)), "device_id": "d1"}


def test_features_do_not_depend_on_how_the_log_is_cut() -> None:
    values: list[bytes | None] = [payment(n, user=f"u{n % 3}", amount=10.0 + n) for n in range(40)]
    whole, cut = World(), World()
    whole.take(values)
    for start in range(0, 40, 7):
        cut.take(values[start : start + 7], first=start)
    assert whole.states.records == cut.states.records
    assert whole.documents("decisions") == cut.documents("decisions")


def test_rows_that_postgres_refuses_are_buried_and_leave_no_trace_in_any_state() -> None:
    world, without = World(), World()
    world.ledger.poison = frozenset({b"Nowhere"})
    values: list[bytes | None] = [payment(n, location="Nowhere" if n in (3, 11) else "New York") for n in range(20)]
    taken = world.take(values)
    assert taken.outcomes == {"scored": 18, "PROCESSING_FAILED": 2}
    buried = {x["kafka_offset"]: x for x in world.documents("transactions.dlq")}
    assert buried.keys() == {3, 11}
    assert buried[3]["detail"] == "PostgreSQL refused the row (SQLSTATE 23514)"
    without.take([None if n in (3, 11) else value for n, value in enumerate(values)])
    assert world.states.records == without.states.records


def test_what_is_given_up_does_not_depend_on_how_the_log_is_cut() -> None:
    """The second is a conflict only because the first was given up, so it must not be given up with it."""
    values: list[bytes | None] = [payment(1, location="Nowhere"), payment(1), payment(1, location="Nowhere")]
    whole, cut = World(), World()
    for world in (whole, cut):
        world.ledger.poison = frozenset({b"Nowhere"})
    whole.take(values)
    for offset, value in enumerate(values):
        cut.take([value], first=offset)
    expected = {0: "PROCESSING_FAILED", 2: "ID_CONFLICT"}
    for world in (whole, cut):
        assert {x["kafka_offset"]: x["code"] for x in world.documents("transactions.dlq")} == expected
        assert [x["kafka_offset"] for x in world.documents("decisions")] == [1]


def test_a_crash_before_the_save_folds_again_without_what_was_given_up() -> None:
    whole, broken = World(), World()
    values: list[bytes | None] = [payment(1), payment(2, location="Nowhere"), payment(3)]
    for world in (whole, broken):
        world.ledger.poison = frozenset({b"Nowhere"})
    whole.take(values)
    broken.states.fail_save = True
    with pytest.raises(DependencyDown):
        broken.take(values)
    broken.take(values)
    assert broken.states.records == whole.states.records


def test_a_record_that_is_given_up_is_not_even_read() -> None:
    world = World()
    values: list[bytes | None] = [payment(1), payment(2, note="4111 1111 1111 1111"), payment(3)]
    pins = Pins(PIN, None)
    taken = world.road.take(records(values), pins, frozenset(), None, {1: "its worker died"})
    assert taken.outcomes == {"scored": 2, "PROCESSING_FAILED": 1}
    (letter,) = world.documents("transactions.dlq")
    assert (letter["kafka_offset"], letter["detail"]) == (1, "its worker died")
    assert "**** **** **** ****" in letter["payload"] and "4111" not in json.dumps(letter)


def test_a_flood_of_refused_rows_stops_the_stream() -> None:
    world = World()
    world.ledger.poison = frozenset({b"New York"})
    with pytest.raises(SchemaBreak, match="PROCESSING_FAILED"):
        world.take([payment(n) for n in range(80)])
    assert not world.ledger.ranges and not world.states.records


def test_a_refusal_that_no_row_explains_is_no_rows_fault() -> None:
    world = World()

    def refuse(*_: Any) -> None:
        raise RowRefused("transactions", 0, "23505")

    world.ledger.commit = refuse  # type: ignore[method-assign]
    with pytest.raises(RowRefused):
        world.take([payment(1), payment(2)])


def test_what_kafka_did_not_take_is_left_unpublished() -> None:
    world = World()
    world.publisher.down = True
    taken = world.take([payment(1)])
    assert not taken.published
    assert not world.ledger.published
    assert world.ledger.committed == {0: 1}


def test_rules_only_asks_no_model_and_reviews_every_payment_with_its_features() -> None:
    world = World()
    world.road._scorer = None  # type: ignore[assignment]  # whoever asks it fails
    pins = Pins(None, None, RULES_ONLY)
    world.road.take(records([payment(1), payment(1), payment(2, currency="EUR")]), pins, frozenset(), None)
    said = [
        (x["outcome"], x["unscored_reason"], x["decision"], x["model_version"]) for x in world.documents("decisions")
    ]
    assert said == [
        ("unscored", "RULES_ONLY", "review", None),
        ("duplicate", None, None, None),
        ("unscored", "CURRENCY_UNSUPPORTED", "review", None),
    ]
    features = {row["transaction_id"]: row["features"] for row in rows_of(world.ledger.copies[0]) if row["features"]}
    assert features.keys() == {b"t1"}, "a backfill can score it"


def test_a_range_that_is_not_to_be_published_is_decided_and_left_to_the_repair() -> None:
    world = World()
    taken = world.road.take(records([payment(1)]), Pins(PIN), frozenset(), None, publish=False)
    assert taken.outcomes == {"scored": 1} and taken.published is False
    assert len(world.ledger.ranges) == 1 and world.ledger.published == [] and world.publisher.sent == []


def test_one_user_with_all_the_payments_costs_a_range_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: as many records loaded, folded into and saved as for a single payment, and as large."""
    world = World()
    moved: list[tuple[str, int]] = []
    load, save = world.states.load, world.states.save

    def loaded(partition: int, attempt: str, users: list[str], hashes: Any) -> Any:
        moved.append(("load", len(users)))
        return load(partition, attempt, users, hashes)

    def saved(partition: int, attempt: str, users: list[str], states: Any, folded_until: int) -> None:
        moved.append(("save", states.nbytes))
        save(partition, attempt, users, states, folded_until)

    monkeypatch.setattr(world.states, "load", loaded)
    monkeypatch.setattr(world.states, "save", saved)
    values: list[bytes | None] = [payment(number, user="hot") for number in range(20_000)]
    for first, until in ((0, 1), (1, 10_000), (10_000, 20_000)):
        assert world.take(values[first:until], first).outcomes == {"scored": until - first}
    assert moved == [("load", 1), ("save", STATE_BYTES)] * 3
