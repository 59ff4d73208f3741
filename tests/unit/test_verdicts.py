"""Labels that contradict each other: which one counted when, against a naive reading of the same labels."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import verdicts
from feature_repo.verdicts import HISTORY, LABELS, NEVER, NONE_RECEIVED

START = datetime(2026, 1, 1, tzinfo=UTC)
Told = tuple[str, bool, int, str]  # payment, verdict, hour it was learnt, source

told = st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 6), st.sampled_from(["scheme", "analyst"]))


def hour(number: int) -> datetime:
    return START + timedelta(hours=number)


def micros(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000


def labels(*said: Told) -> pa.Table:
    rows = [(payment, fraud, hour(at), source, hour(at + 1)) for payment, fraud, at, source in said]
    columns = zip(*rows, strict=True) if rows else [()] * len(LABELS)
    return pa.table([pa.array(list(c), f.type) for c, f in zip(columns, LABELS, strict=True)], schema=LABELS)


def known(said: list[Told], at: int) -> dict[str, bool]:
    """The newest verdict of each payment by that hour; of one hour's, fraud."""
    return {
        payment: max((when, fraud) for of, fraud, when, _ in said if of == payment and when <= at)[1]
        for payment in {of for of, _, when, _ in said if when <= at}
    }


@given(st.lists(told, max_size=12), st.integers(-1, 7))
def test_the_newest_label_that_had_arrived_counts(said: list[Told], at: int) -> None:
    found = verdicts.standing(verdicts.runs(labels(*said)), micros(hour(at)))
    assert dict(zip(found["transaction_id"].to_pylist(), found["is_fraud"].to_pylist(), strict=True)) == known(said, at)
    assert len(found) == len(known(said, at))


@given(st.lists(told, max_size=12))
def test_a_verdict_stands_since_it_last_changed(said: list[Told]) -> None:
    for run in verdicts.runs(labels(*said)).to_pylist():
        begins, ends = ((time - micros(START)) // 3_600_000_000 for time in (run["since"], min(run["until"], NEVER)))
        verdict = run["is_fraud"]
        assert known(said, begins).get(run["transaction_id"]) is verdict
        assert known(said, begins - 1).get(run["transaction_id"]) is not verdict
        if run["until"] != NEVER:
            assert known(said, ends)[run["transaction_id"]] is not verdict


def test_a_second_report_does_not_make_a_fraud_known_later() -> None:
    (run,) = verdicts.runs(labels(("a", True, 1, "scheme"), ("a", True, 5, "analyst"))).to_pylist()
    assert (run["since"], run["until"], run["source"]) == (micros(hour(1)), NEVER, "scheme")


def test_payments_are_told_what_was_known_of_them() -> None:
    payments = pa.table({
        "transaction_id": ["a", "b", "c"], "is_fraud": [True, None, False],
        "label_time": pa.array([hour(2), None, None], pa.timestamp("us", tz="UTC")),
    })  # fmt: skip
    found = verdicts.runs(pa.concat_tables([verdicts.of_history(payments), labels(("a", False, 4, "analyst"))]))
    for at, verdict, source in ((1, None, None), (2, True, HISTORY), (3, True, HISTORY), (4, False, "analyst")):
        rows = verdicts.as_of(payments, found, micros(hour(at))).to_pylist()
        assert [(row["is_fraud"], row["label_source"]) for row in rows] == [
            (verdict, source),
            (None, None),
            (None, None),
        ]
        assert [row["transaction_id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["label_time"] == hour(4)


def test_labels_received_later_can_be_left_out(tmp_path: Path) -> None:
    assert len(verdicts.of_table(tmp_path)) == 0
    table = labels(("a", True, 1, "scheme"), ("b", True, 1, "scheme"), ("b", False, 5, "analyst"))
    pq.write_table(table, tmp_path / verdicts.FILE)
    assert verdicts.received(verdicts.of_table(tmp_path)) == hour(6)
    assert len(verdicts.of_table(tmp_path, hour(2))) == 2
    assert len(verdicts.of_table(tmp_path, hour(6))) == 3
    none = verdicts.of_table(tmp_path, NONE_RECEIVED)
    assert (len(none), verdicts.received(none)) == (0, NONE_RECEIVED)
