"""Feast's offline join of logged vectors: in one pass what a search over all rows finds, and what Feast's own finds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo import definitions, offline_store
from feature_repo.features import NAMES
from feature_repo.settings import Settings
from pipelines.replay import FEATURES_SCHEMA

START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data set of 400 vectors of 150 transactions: several times, some times twice, of different making."""
    rng = np.random.default_rng(5)
    count = 400
    columns = {
        "transaction_id": [f"t{number}" for number in rng.integers(0, 150, count)],
        "user_id": ["u"] * count,
        "event_timestamp": [START + timedelta(hours=int(hour)) for hour in rng.integers(0, 6, count)],
        "created": [START + timedelta(seconds=number) for number in rng.permutation(count).tolist()],
        **{name: rng.normal(size=count).astype(np.float32) for name in NAMES},
    }
    (tmp_path / "data" / "mine").mkdir(parents=True)
    pq.write_table(pa.table(columns, schema=FEATURES_SCHEMA), tmp_path / "data" / "mine" / "features.parquet")
    return tmp_path


@pytest.fixture
def asked() -> pd.DataFrame:
    """Every transaction twice, at different times, and one that has no vector."""
    rng = np.random.default_rng(6)
    ids = [*(f"t{number}" for number in range(150)), *(f"t{number}" for number in range(150)), "never seen"]
    hours = rng.permutation(np.arange(len(ids))) / 50  # all different
    times = [START + timedelta(hours=float(hour)) for hour in hours]
    return pd.DataFrame({"transaction_id": ids, "event_timestamp": pd.to_datetime(times, utc=True)})


def _answer(home: Path, asked: pd.DataFrame) -> pd.DataFrame:
    store = definitions.apply(Settings(home=home), "mine")
    return store.get_historical_features(asked, store.get_feature_service(definitions.SERVICE)).to_df()


def test_each_row_gets_the_newest_vector_not_later_than_itself(
    home: Path, asked: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_store, "BATCH_ROWS", 64)
    answer = _answer(home, asked)
    vectors = pq.read_table(home / "data" / "mine" / "features.parquet").to_pylist()
    assert answer["transaction_id"].tolist() == asked["transaction_id"].tolist()
    for row in answer.to_dict("records"):
        mine = [v for v in vectors if v["transaction_id"] == row["transaction_id"]]
        before = [v for v in mine if v["event_timestamp"] <= row["event_timestamp"]]
        if not before:
            assert all(np.isnan(row[name]) for name in NAMES)
            continue
        newest = max(before, key=lambda v: (v["event_timestamp"], v["created"]))
        assert [row[name] for name in NAMES] == [newest[name] for name in NAMES]


def test_feast_s_own_store_finds_the_same(home: Path, asked: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["transaction_id", "event_timestamp"]
    path = home / "data" / "mine" / "features.parquet"
    # Of vectors of one time Feast's takes any: its sort by time does not keep the order of making.
    once = pq.read_table(path).to_pandas().drop_duplicates(keys)
    pq.write_table(pa.Table.from_pandas(once, schema=FEATURES_SCHEMA, preserve_index=False), path)
    ours = _answer(home, asked).sort_values(keys, ignore_index=True)
    monkeypatch.setattr(offline_store, "LOGGED_TAG", "a tag no view has")
    theirs = _answer(home, asked).sort_values(keys, ignore_index=True)
    both = ours.merge(theirs, on=keys, suffixes=("", "_theirs"))  # Feast's drops rows all of whose vectors are later
    assert len(both) == len(theirs) > 200
    for name in NAMES:
        np.testing.assert_array_equal(both[name], both[f"{name}_theirs"])
