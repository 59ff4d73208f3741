"""Feast's offline store for Vigil: logged vectors joined in one pass over their file, other views as Feast does it.

Feast's file store holds a whole file and several copies of it as Python objects, which ten million payments
do not survive. A view tagged `logged` is read batch by batch instead, and only what was asked for is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig, DaskRetrievalJob
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.hashing import hash_texts

LOGGED_TAG = "logged"  # a view with this tag has one text as its key, and hardly ever two rows for one
TIME = "event_timestamp"  # of the asked rows
BATCH_ROWS = 131_072
_NEVER = np.iinfo(np.int64).min
_US = pa.timestamp("us", tz="UTC")

Hashes = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]


class VigilOfflineStoreConfig(DaskOfflineStoreConfig):
    type: Literal["feature_repo.offline_store.VigilOfflineStore"] = "feature_repo.offline_store.VigilOfflineStore"  # type: ignore[assignment]  # in place of "dask"


class VigilOfflineStore(DaskOfflineStore):
    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        view = feature_views[0]
        if (
            len(feature_views) > 1
            or LOGGED_TAG not in view.tags
            or full_feature_names
            or filter_by_created_timestamp
            or not isinstance(entity_df, pd.DataFrame)
            or TIME not in entity_df
        ):
            return DaskOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp, **kwargs,
            )  # fmt: skip
        source = view.batch_source
        assert isinstance(source, FileSource), "definitions.py makes no other"
        names = [reference.partition(":")[2] for reference in feature_refs]
        path = FileSource.get_uri_for_file_path(repo_path=config.repo_path, uri=source.path)
        key = view.entity_columns[0].name
        logged = Logged(str(path), key, source.timestamp_field, source.created_timestamp_column, names)
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[column for column in entity_df.columns if column != TIME],
            min_event_timestamp=entity_df[TIME].min().to_pydatetime(),
            max_event_timestamp=entity_df[TIME].max().to_pydatetime(),
        )
        return LoggedJob(lambda: logged.joined(entity_df), metadata, str(config.repo_path))


class LoggedJob(DaskRetrievalJob):
    """What Feast asks for the answer."""

    def __init__(self, evaluate: Callable[[], pa.Table], metadata: RetrievalMetadata, repo_path: str) -> None:
        super().__init__(evaluate, full_feature_names=False, repo_path=repo_path, metadata=metadata)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self.evaluation_function()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.evaluation_function().to_pandas()


@dataclass(frozen=True)
class Logged:
    """A Parquet file of vectors: the column of the key, of the time, of when a row was made, and of each feature."""

    path: str
    key: str
    time: str
    created: str
    features: list[str]

    def joined(self, asked: pd.DataFrame) -> pa.Table:
        """The asked rows, in their order, with the features of the newest vector not later than each; null without.

        Of vectors of one time the one made last counts.
        """
        rows = pa.Table.from_pandas(asked, preserve_index=False)
        until = _microseconds(rows[TIME])
        hashes = _hashes(rows[self.key])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        found = _Found.none(len(rows), len(self.features))
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[self.key, self.time, self.created, *self.features]):
                self._take(pa.Table.from_batches([batch]), hashes, order, until, found)
        for name, values in zip(self.features, found.values, strict=True):
            rows = rows.append_column(name, pa.array(values, mask=found.time == _NEVER))
        return rows

    def _take(self, batch: pa.Table, hashes: Hashes, order: Rows, until: Times, found: "_Found") -> None:
        """Keeps the vectors of a batch that are asked for and newer than those found before."""
        time, created, keys = (
            _microseconds(batch[self.time]),
            _microseconds(batch[self.created]),
            _hashes(batch[self.key]),
        )
        features = np.stack([batch[name].to_numpy() for name in self.features])
        rows = np.lexsort((created, time))  # of several for one key the newest is written last
        place = np.searchsorted(hashes, keys[rows])
        while len(rows):  # once more for each further time the same key is asked for
            asked = (place < len(hashes)) & (hashes[np.minimum(place, len(hashes) - 1)] == keys[rows])
            rows, place = rows[asked], place[asked]
            at = order[place]
            newer = (time[rows] > found.time[at]) | (time[rows] == found.time[at]) & (
                created[rows] >= found.created[at]
            )
            newer &= time[rows] <= until[at]
            at, chosen = at[newer], rows[newer]
            found.time[at], found.created[at] = time[chosen], created[chosen]
            found.values[:, at] = features[:, chosen]
            place = place + 1


@dataclass(frozen=True)
class _Found:
    """Of every asked row the newest vector so far: its time and making, microseconds, and values [features, n]."""

    time: Times
    created: Times
    values: npt.NDArray[np.float32]

    @classmethod
    def none(cls, count: int, width: int) -> "_Found":
        return cls(np.full(count, _NEVER), np.full(count, _NEVER), np.zeros((width, count), np.float32))


def _hashes(keys: pa.ChunkedArray) -> Hashes:
    """Equal keys have equal hashes; that two others meet is one chance in a million for ten million of each."""
    return np.concatenate(
        [hash_texts(part, "transaction_id") for part in keys.cast(pa.string()).chunks] or [np.empty(0, np.uint64)]
    )


def _microseconds(times: pa.ChunkedArray) -> Times:
    return times.cast(_US, safe=False).cast(pa.int64()).to_numpy()
