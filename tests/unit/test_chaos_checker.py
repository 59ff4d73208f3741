"""The checker of the chaos run finds every way in which stores can be broken, and nothing in sound ones."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.chaos.checker import INVARIANTS, Evidence, Letter, Model, Published, Range, Record, Row, check
from tests.chaos.load import CANARIES, Kind
from tests.chaos.needles import Needles

NAMES = ("amount_log", "history")
FEATURES = np.array([0.25, 3.0], "<f4").tobytes()


def row(offset: int, **changes: object) -> Row:
    """A payment that was approved."""
    sound = Row(
        0, offset, 1, f"t{offset}", "u1", 1_000 + offset, "scored", None, 0.25, False, "approve", "7", "v0", FEATURES,
        False,
    )  # fmt: skip
    return sound._replace(**changes)  # type: ignore[arg-type]  # the fields' own types


def published(one: Row) -> set[Published]:
    return {Published(one.outcome, one.decision, one.score, one.model_version)}


def sound() -> Evidence:
    """Offsets 0, 1 and 5 approved, 2 an alert, 3 a duplicate, 4 no JSON, 6 put in place as 7, 8 aborted, 9 unscored
    and scored later."""
    alert = row(2, score=0.75, is_anomaly=True, decision="review", features=np.array([0.75, 3.0], "<f4").tobytes())
    repeat = row(3, transaction_id="t1", outcome="duplicate", score=None, is_anomaly=None, decision=None,
                 model_version=None, features=None)  # fmt: skip
    unscored = row(9, outcome="unscored", unscored_reason="MODEL_DOWN", score=None, is_anomaly=None, decision="review",
                   model_version=None)  # fmt: skip
    rows = [row(0), row(1), alert, repeat, row(5), row(7, transaction_id="t6"), unscored, row(9, revision=2)]
    letters = [Letter(0, 4, "NOT_JSON", "the message is not one JSON document"), Letter(0, 6, "REKEYED", "elsewhere")]
    log = {(0, one.offset): Record(one.transaction_id, None) for one in rows}
    log |= {(0, 4): Record(None, None), (0, 6): Record("t6", None), (0, 7): Record("t6", "payments-0-6")}
    kinds = dict.fromkeys([(0, 0), (0, 1), (0, 2), (0, 5), (0, 9)], Kind.GOOD)
    kinds |= {(0, 3): Kind.DUPLICATE, (0, 4): Kind.BROKEN, (0, 6): Kind.UNKEYED, (0, 8): Kind.ABORTED}
    name = "payments-0-{}".format
    return Evidence(
        topic="payments",
        log=log,
        rows=rows,
        letters=letters,
        ranges=[
            Range(0, 0, 5, 5, "7", "v0", NAMES, 100.0, published=True),
            Range(0, 5, 10, 4, "7", "v0", NAMES, 101.0, published=True),
        ],
        committed={0: 10},
        decisions={(name(one.offset), one.revision): published(one) for one in rows},
        alerts={(name(2), 1): published(alert)},
        buried={name(4)},
        documents={name(one.offset): 2 if one.offset == 9 else 1 for one in rows},
        models={"7": Model(NAMES, 0.5, lambda x: x[:, 0])},
        sent=kinds,
    )


def change(at: int, **changes: object) -> Callable[[Evidence], None]:
    def apply(e: Evidence) -> None:
        e.rows[at] = e.rows[at]._replace(**changes)  # type: ignore[arg-type]

    return apply


def cut(at: int, **changes: object) -> Callable[[Evidence], None]:
    def apply(e: Evidence) -> None:
        e.ranges[at] = e.ranges[at]._replace(**changes)  # type: ignore[arg-type]

    return apply


def do(what: Callable[[Evidence], object]) -> Callable[[Evidence], None]:
    def apply(e: Evidence) -> None:
        what(e)

    return apply


BROKEN: dict[str, tuple[str, Callable[[Evidence], None]]] = {
    "a record has no outcome": ("I1", do(lambda e: e.rows.pop(0))),
    "an outcome has no record": ("I1", do(lambda e: e.log.pop((0, 4)))),
    "an offset has several outcomes": ("I1", do(lambda e: e.letters.append(Letter(0, 0, "NOT_JSON", "no")))),
    "a duplicate record came to another outcome": ("I1", change(3, outcome="scored")),
    "a good record came to another outcome": ("I1", do(lambda e: e.sent.update({(0, 6): Kind.GOOD}))),
    "a unkeyed record came to another outcome": ("I1", change(5, outcome="duplicate")),
    "a aborted record came to another outcome": ("I1", do(lambda e: e.rows.append(row(8)))),
    "a confirmed record is gone": ("I1", do(lambda e: e.log.pop((0, 4)))),
    "a payment was never decided": ("I1", do(lambda e: e.rows.pop(5))),
    "a re-keyed payment was not produced again": (
        "I1", do(lambda e: e.log.update({(0, 7): Record("t6", "payments-1-6")})),
    ),
    "a duplicate repeats nothing": ("I2", change(3, transaction_id="t99")),
    "an id was decided twice": ("I2", change(4, transaction_id="t0")),
    "a revision was written twice": ("I2", do(lambda e: e.rows.append(row(9, revision=2)))),
    "a decision was not published": ("I2", do(lambda e: e.decisions.pop(("payments-0-0", 1)))),
    "a published decision has no row": ("I2", do(lambda e: e.decisions.update({("payments-0-8", 1): set()}))),
    "a decision was published with several contents": (
        "I2", do(lambda e: e.decisions[("payments-0-0", 1)].add(Published("scored", "approve", 0.26, "7"))),
    ),
    "a published decision is not what was decided": (
        "I2", do(lambda e: e.decisions.update({("payments-0-0", 1): {Published("scored", "approve", 0.26, "7")}})),
    ),
    "a alert was not published": ("I2", do(lambda e: e.alerts.clear())),
    "a published alert has no row": ("I2", do(lambda e: e.alerts.update({("payments-0-0", 1): published(row(0))}))),
    "a dead letter was not published": ("I2", do(lambda e: e.buried.clear())),
    "a published dead letter has no row": ("I2", do(lambda e: e.buried.add("payments-0-6"))),
    "a decision lies in no range": ("I3", do(lambda e: e.ranges.pop())),
    "a range holds another model's decision": ("I3", change(1, model_version="8")),
    "a range holds another rule set's decision": ("I3", change(1, ruleset="v1")),
    "a version that decided is in no registry": ("I3", do(lambda e: e.models.clear())),
    "stored features give another score": ("I3", change(0, score=0.2501)),
    "the score says another decision": ("I3", change(2, decision="approve")),
    "stored features are not what the log gives": ("I3", do(lambda e: e.mismatches.append("payments-0-0"))),
    "a scored payment lacks something": ("I4", change(0, features=None)),
    "a scored payment has features that are no numbers": (
        "I4", change(0, features=np.array([0.25, np.nan], "<f4").tobytes()),
    ),
    "an unscored payment has no known reason": ("I4", change(6, unscored_reason=None)),
    "a payment without a score is not simply reviewed": ("I4", change(6, decision="approve")),
    "a duplicate was decided": ("I4", change(3, decision="review")),
    "a dead letter does not say why": ("I4", do(lambda e: e.letters.append(Letter(0, 8, "NOT_JSON", "")))),
    "late is said wrongly": ("I4", change(4, event_us=10)),
    "a partition was not decided to its end": ("I5", do(lambda e: e.committed.update({0: 9}))),
    "a range was not published": ("I5", cut(0, published=False)),
    "a decision is neither indexed nor parked": ("I5", do(lambda e: e.documents.update({"payments-0-9": 1}))),
    "a document has no decision": ("I5", do(lambda e: e.documents.update({"payments-0-4": 1}))),
    "a parked document does not say why": ("I5", do(lambda e: e.parked.update({("payments-0-0", 1): ""}))),
    "a failure does not say what it is": ("I6", do(lambda e: e.complaints.append("stream.log: Traceback"))),
    "a card number or a secret was found": ("I7", do(lambda e: e.leaks.append("stream.log"))),
    "ranges overlap": ("I8", cut(1, first=4)),
    "a range was committed before the one that precedes it": ("I8", cut(1, committed_at=90.0)),
    "a range counts wrongly": ("I8", cut(1, records=5)),
    "an outcome lies in no range": ("I8", cut(0, until=4)),
    "the ledger is not where its last range ends": ("I8", do(lambda e: e.committed.update({0: 12}))),
}  # fmt: skip


def test_sound_stores_break_nothing() -> None:
    assert check(sound()) == []


@pytest.mark.parametrize(("what", "invariant", "mutate"), [(what, *how) for what, how in BROKEN.items()])
def test_every_broken_promise_is_found(what: str, invariant: str, mutate: Callable[[Evidence], None]) -> None:
    evidence = sound()
    mutate(evidence)
    assert (invariant, what) in {(found.invariant, found.what) for found in check(evidence)}


def test_every_invariant_has_its_mutants() -> None:
    assert {invariant for invariant, _ in BROKEN.values()} == set(INVARIANTS)


def test_a_parked_document_is_as_good_as_an_indexed_one() -> None:
    evidence = sound()
    del evidence.documents["payments-0-0"]
    evidence.parked["payments-0-0", 1] = "mapper_parsing_exception: amount"
    assert check(evidence) == []


def grown() -> Evidence:
    """`sound`, then one more partition: a payment waited in the old one, t10, and a later one of its user, t11, came to
    the new one before it was put in its place there."""
    e, moved = sound(), Range(1, 0, 2, 2, "7", "v0", NAMES, 103.0, published=True)
    late = row(1, partition=1, transaction_id="t10", event_us=1_010, late=True)
    e.rows += [row(0, partition=1, transaction_id="t11", event_us=1_011), late]
    e.letters.append(Letter(0, 10, "REKEYED", "elsewhere"))
    e.log |= {(0, 10): Record("t10", None), (1, 0): Record("t11", None), (1, 1): Record("t10", "payments-0-10")}
    e.ranges += [Range(0, 10, 11, 1, "7", "v0", NAMES, 102.0, published=True), moved]
    e.committed = {0: 11, 1: 2}
    for one in e.rows[-2:]:
        e.decisions[e.id(*one[:2]), 1] = published(one)
        e.documents[e.id(*one[:2])] = 1
    e.sent |= {(0, 10): Kind.GOOD, (1, 0): Kind.GOOD}
    e.loose = {(0, 10)}
    return e


def test_a_user_who_moved_is_followed_into_the_other_partition() -> None:
    assert check(grown()) == []
    evidence = grown()
    evidence.rows[-1] = evidence.rows[-1]._replace(late=False)
    assert "late is said wrongly" in {found.what for found in check(evidence)}
    evidence = grown()
    evidence.rows[-2] = evidence.rows[-2]._replace(transaction_id="t5")  # decided in the partition before
    assert "an id was decided twice" in {found.what for found in check(evidence)}


@pytest.mark.parametrize("card", CANARIES)
@pytest.mark.parametrize("spelled", ["{}", "card={}x", "1 {}"])
def test_a_canary_in_a_log_is_found_however_it_is_spelled(card: str, spelled: str) -> None:
    needles = Needles(["hunter22"])
    for text in (card, card.replace(" ", "").replace("-", ""), card.replace(" ", "-")):
        assert needles.found(spelled.format(text).encode())
    assert needles.found(b"postgresql://vigil:hunter22@host")
    assert not needles.found(b"order 4111 1111 1111 1112, **** **** **** ****")
