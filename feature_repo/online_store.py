"""Feast's online store for Vigil: user state records as they are, every other view as Feast's Redis hashes.

A view tagged `record` has one Redis string per user: the state record that the Spark job loads and saves.
Reading such a view decodes that string, so there is nothing to synchronise; writing it through Feast is
refused. All other views are handed to Feast's own RedisOnlineStore.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import redis
from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # has no types
from pydantic import model_validator

from feature_repo import layouts, settings
from feature_repo.activity import AGGREGATES, Kind, decode
from feature_repo.errors import RecordViewReadOnly, StoreUnavailable
from feature_repo.hashing import hash_texts, partitions_of
from feature_repo.keys import check_placement, placement_key, state_keys
from feature_repo.state import STATE_BYTES, States

RECORD_TAG = "record"  # a view with this tag is one state record per user
STATE_FIELD = "state"  # the feature that is the record itself
SCANNED = 1_000  # keys of one round trip
TIMEOUT_S = 3.0  # of one round trip: without it, a Redis that hangs would take the model service's threads one by one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[datetime | None, dict[str, Value] | None]
Written = list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]]


class VigilOnlineStoreConfig(RedisOnlineStoreConfig):
    """Where the states are; what is not given comes from the settings of this process."""

    type: Literal["feature_repo.online_store.VigilOnlineStore"] = "feature_repo.online_store.VigilOnlineStore"  # type: ignore[assignment]  # in place of "redis"
    redis_url: str
    partitions: int
    murmur2: bool
    skip_dedup: bool = True  # each row has one writer; without it a day published anew keeps its first values

    @property
    def placement(self) -> str:
        """As settings.placement."""
        return f"{self.partitions} {'murmur2' if self.murmur2 else 'crc32'}"

    @model_validator(mode="before")
    @classmethod
    def _from_settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        if {"redis_url", "partitions", "murmur2"} <= given.keys():
            filled = dict(given)
        else:
            here = settings.load()
            filled = {
                "redis_url": here.redis_url,
                "partitions": here.partitions,
                "murmur2": here.murmur2,
                **given,
            }
        filled.setdefault("connection_string", connection_string(filled["redis_url"]))
        return filled


def connection_string(redis_url: str) -> str:
    """A Redis URL in the `host:port,name=value` form that Feast's RedisOnlineStore reads."""
    parts = redis.connection.parse_url(redis_url)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    options = {"db": parts.get("db", 0), "socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    options |= {name: parts[name] for name in ("username", "password") if name in parts}
    if redis_url.startswith("rediss://"):
        options["ssl"] = True
    pairs = [f"{name}={json.dumps(value)}" for name, value in options.items()]
    return ",".join([f"{parts.get('host', '127.0.0.1')}:{parts.get('port', 6379)}", *pairs])


class VigilOnlineStore(OnlineStore):
    """Record views read here, other views delegated. Feast makes one per FeatureStore."""

    def __init__(self) -> None:
        self._hashes = RedisOnlineStore()
        self._client: redis.Redis | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=False, write=False)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """One (newest event time, values) per entity key, (None, None) where there is no state.

        Raises StoreUnavailable, PlacementDiffers and GrowthUnfinished where users lie in other partitions than the
        settings say, and StateCorrupt for a record that is not what it should be.
        """
        if not is_record(table):
            return self._hashes.online_read(config, table, entity_keys, requested_features)
        store = _config(config)
        users = pa.array([key.entity_values[0].string_val for key in entity_keys], pa.string())
        values = self._load(store, users)
        found = [row for row, value in enumerate(values) if value is not None]
        hashes = hash_texts(users.take(pa.array(found, pa.int64())), "user_id")
        states = layouts.read([value for value in values if value is not None], hashes)
        rows: list[Row] = [(None, None)] * len(values)
        for row, decoded in zip(found, _values(states, requested_features), strict=True):
            rows[row] = decoded
        return rows

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Written,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Raises RecordViewReadOnly for a record view."""
        if is_record(table):
            raise RecordViewReadOnly(table.name)
        _config(config)
        self._hashes.online_write_batch(config, table, data, progress)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Forget the rows of deleted views; user states outlive the definition of their view."""
        self._hashes.update(
            config, _hashed(tables_to_delete), _hashed(tables_to_keep), entities_to_delete, entities_to_keep, partial
        )

    def keep_only(self, config: RepoConfig, table: FeatureView, at: datetime) -> None:
        """Forget the rows of a view whose event time is another than `at`. Raises StoreUnavailable."""
        store = _config(config)
        stamp = f"_ts:{table.name}"
        wanted = Timestamp()
        wanted.FromDatetime(at)
        keys = serialize_entity_key_prefix(table.join_keys) + b"*" + config.project.encode()
        with self._redis(store) as client:
            found = list(client.scan_iter(keys, SCANNED))
            for start in range(0, len(found), SCANNED):
                some = found[start : start + SCANNED]
                pipe = client.pipeline(transaction=False)
                for key in some:
                    pipe.hget(key, stamp)
                times = zip(some, pipe.execute(), strict=True)
                gone = [key for key, time in times if time not in (None, wanted.SerializeToString())]
                if gone:
                    client.delete(*gone)  # an entity of ours has one such view

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        self._hashes.teardown(config, _hashed(tables), entities)

    def _load(self, store: VigilOnlineStoreConfig, users: pa.Array) -> list[bytes | None]:
        """Raw records in the order of `users`: one round trip, one MGET per Kafka partition."""
        by_partition: dict[int, list[int]] = defaultdict(list)
        for row, partition in enumerate(partitions_of(users, store.partitions, murmur2=store.murmur2).tolist()):
            by_partition[partition].append(row)
        names = users.to_pylist()
        with self._redis(store) as client:
            pipe = client.pipeline(transaction=False)
            for partition, rows in by_partition.items():
                pipe.mget([*state_keys((names[row] for row in rows), partition), placement_key(partition)])
            answers = pipe.execute()
        values: list[bytes | None] = [None] * len(names)
        for rows, answer in zip(by_partition.values(), answers, strict=True):
            check_placement(answer.pop(), store.placement)
            for row, value in zip(rows, answer, strict=True):
                values[row] = value
        return values

    @contextmanager
    def _redis(self, store: VigilOnlineStoreConfig) -> Iterator[redis.Redis]:
        """Raises StoreUnavailable where it does not answer."""
        if self._client is None:
            self._client = redis.Redis.from_url(
                store.redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
        try:
            yield self._client
        except redis.RedisError as error:
            raise StoreUnavailable("redis", store.redis_url.rpartition("@")[2], str(error)) from error


def is_record(table: FeatureView) -> bool:
    """Whether the rows of this view are user state records."""
    return table.tags.get(RECORD_TAG) == "true"


def _hashed(tables: Sequence[FeatureView]) -> list[FeatureView]:
    return [table for table in tables if not is_record(table)]


def _config(config: RepoConfig) -> VigilOnlineStoreConfig:
    store = config.online_store
    assert isinstance(store, VigilOnlineStoreConfig)
    return store


def _values(states: States, requested: list[str] | None) -> list[Row]:
    """Feast's rows of checked records: the record and its aggregates, as far as they are asked for."""
    wanted = set(requested) if requested else {STATE_FIELD, *(aggregate.name for aggregate in AGGREGATES)}
    columns = {} if wanted == {STATE_FIELD} else decode(states)
    seen = states["newest"].tolist()
    raw = states.tobytes()
    rows: list[Row] = []
    for row in range(len(states)):
        values: dict[str, Value] = {}
        if STATE_FIELD in wanted:
            values[STATE_FIELD] = Value(bytes_val=raw[row * STATE_BYTES : (row + 1) * STATE_BYTES])
        for aggregate in AGGREGATES:
            if aggregate.name in wanted:
                values[aggregate.name] = _value(aggregate.kind, columns[aggregate.name][row])
        rows.append((EPOCH + timedelta(microseconds=seen[row]), values))
    return rows


def _value(kind: Kind, value: Any) -> Value:
    if kind is Kind.INTEGER:
        return Value(int64_val=int(value))
    if kind is Kind.TIME:
        return Value(unix_timestamp_val=int(value) // 1_000_000)  # Feast's own resolution: seconds
    return Value() if np.isnan(value) else Value(double_val=float(value))
