"""A training set as a data set on disk, as import and replay leave it."""

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo import features
from feature_repo.settings import Settings
from training.data import DAY_US, TrainingSet

LABEL_DELAY_DAYS = 5
TIME = pa.timestamp("us", tz="UTC")


def write(settings: Settings, rows: TrainingSet, without_vector: int = 0) -> str:
    """The new data set's name. Of every fifty payments the one numbered `without_vector` has none, 0 for all."""
    name = f"table-{uuid.uuid4().hex[:8]}"
    folder = settings.home / "data" / name
    folder.mkdir(parents=True)
    time = pa.array(rows.event_time, TIME)
    labels = pa.array(rows.event_time + LABEL_DELAY_DAYS * DAY_US, TIME, mask=~rows.label)
    ids = {"transaction_id": rows.transaction_id, "user_id": rows.user_id}
    times = {"event_time": time, "arrival_time": time, "label_time": labels}
    history = pa.table({**ids, **times, "amount": rows.amount, "is_fraud": pa.array(rows.label)})
    pq.write_table(history, folder / "history.parquet")
    vectors = {column: pa.array(np.ascontiguousarray(rows.x[:, at])) for at, column in enumerate(features.NAMES)}
    logged = pa.table({**ids, "event_timestamp": time, "created": time, **vectors})
    kept = np.arange(len(rows)) % 50 != without_vector if without_vector else np.ones(len(rows), bool)
    shuffled = np.random.default_rng(1).permutation(int(kept.sum()))
    pq.write_table(logged.filter(pa.array(kept)).take(pa.array(shuffled)), folder / "features.parquet")
    return name
