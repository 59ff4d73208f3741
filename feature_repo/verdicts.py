"""What was known of payments when: their labels, one after the other, as runs of one verdict.

A payment's labels come from its history, from analysts, from card schemes, and may contradict each other: of
those learnt by a moment the newest counts, and where two of one moment disagree, the one that says fraud. A run
is the time for which one verdict stood: a claim taken back ends the run of fraud and begins one of genuine; a
second report of a known fraud changes nothing, least of all how late the fraud was reported.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILE = "labels.parquet"  # beside a history: what table `labels` said of its payments when it was last asked
HISTORY = "history"  # source of a label that came with the payment itself
NEVER = np.iinfo(np.int64).max  # `until` of the run that stands
NONE_RECEIVED = datetime(1970, 1, 1, tzinfo=UTC)

_US = pa.timestamp("us", tz="UTC")
LABELS = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("label_time", _US, nullable=False),  # when it was learnt
        pa.field("source", pa.string(), nullable=False),
        pa.field("received_at", _US, nullable=False),  # when we were told
    ]
)
RUNS = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("since", pa.int64(), nullable=False),  # microseconds since 1970 UTC
        pa.field("until", pa.int64(), nullable=False),  # exclusive; NEVER for the one that stands
        pa.field("source", pa.string(), nullable=False),  # of the label that began it
    ]
)


def of_history(payments: pa.Table) -> pa.Table:
    """LABELS of a history's own labels: of its rows with a label_time, known to whoever knows the history."""
    labelled = payments.filter(pc.is_valid(payments["label_time"]))
    rows = len(labelled)
    columns = [
        labelled["transaction_id"].cast(pa.string()),
        labelled["is_fraud"].fill_null(False),
        labelled["label_time"].cast(_US),
        pa.array([HISTORY]).take(pa.array(np.zeros(rows, np.int8))),
        pa.array(np.zeros(rows, np.int64)).cast(_US),
    ]
    return pa.Table.from_arrays(columns, schema=LABELS)


def of_table(folder: Path, received_by: datetime | None = None) -> pa.Table:
    """LABELS that table `labels` held of the payments of a data set's folder, those we were told of by
    `received_by`; none where it was never asked."""
    path = folder / FILE
    found = pq.read_table(path, schema=LABELS) if path.is_file() else LABELS.empty_table()
    return (
        found if received_by is None else found.filter(pc.less_equal(found["received_at"], pa.scalar(received_by, _US)))
    )


def received(labels: pa.Table) -> datetime:
    """When we were told of the last of them; NONE_RECEIVED where there is none."""
    newest: datetime | None = pc.max(labels["received_at"]).as_py()
    return newest or NONE_RECEIVED


def runs(labels: pa.Table) -> pa.Table:
    """RUNS of LABELS in any order, ascending by time within a payment."""
    labels = labels.combine_chunks()
    payment = labels["transaction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    time = labels["label_time"].cast(pa.int64()).to_numpy()
    fraud = labels["is_fraud"].to_numpy()
    order = np.lexsort((fraud, time, payment))
    same = (np.diff(payment[order]) == 0) & (np.diff(time[order]) == 0)
    order = order[~np.append(same, np.zeros(min(1, len(order)), bool))]  # of one moment's labels the last
    payment, time, fraud = payment[order], time[order], fraud[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (np.diff(payment) != 0) | (fraud[1:] != fraud[:-1])
    order, payment, time = order[begins], payment[begins], time[begins]
    until = np.full(len(order), NEVER)
    until[:-1][np.diff(payment) == 0] = time[1:][np.diff(payment) == 0]
    chosen = labels.take(pa.array(order))
    columns = [chosen["transaction_id"], chosen["is_fraud"], pa.array(time), pa.array(until), chosen["source"]]
    return pa.Table.from_arrays(columns, schema=RUNS)


def standing(found: pa.Table, at: int) -> pa.Table:
    """The RUNS in force at a moment (microseconds since 1970 UTC): at most one of each payment."""
    return found.filter(pc.and_(pc.less_equal(found["since"], at), pc.greater(found["until"], at)))


def as_of(payments: pa.Table, found: pa.Table, at: int) -> pa.Table:
    """The payments with `is_fraud`, `label_time` and `label_source` as they were known at that moment, null where
    nothing was. `label_time` says since when the verdict stands."""
    known = standing(found, at)
    place = pc.index_in(payments["transaction_id"], value_set=known["transaction_id"].combine_chunks())
    said = {
        "is_fraud": known["is_fraud"].take(place),
        "label_time": known["since"].cast(_US).take(place),
        "label_source": known["source"].take(place),
    }
    for name, values in said.items():
        at_column = payments.schema.get_field_index(name)
        payments = (
            payments.append_column(name, values) if at_column < 0 else payments.set_column(at_column, name, values)
        )
    return payments


def claims(found: pa.Table) -> pa.Table:
    """The RUNS of fraud."""
    return found.filter(found["is_fraud"])
