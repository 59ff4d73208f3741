"""Vigil's Feast objects, made from the feature catalogue and the settings; no name is typed twice.

  user_activity            stream feature view over the payments topic: the user's state record and readable
                           aggregates of it, read from the strings the Spark job writes
  merchant_risk            the daily snapshots of merchants; the newest one is materialised online
  transaction_features     the vectors the kernel gave to past payments (made by replay), offline
  transaction_inputs       on demand: a payment, its user's state and its merchant's row, through the kernel
  vigil_autoencoder        what the model line trains on: transaction_features
  vigil_autoencoder_online the same columns for a payment that is happening: transaction_inputs

A data set's `features.parquet` is the offline source. The shared registry serves the data set that the
settings name; a data set opened by name has a registry of its own in its folder, so training on one never
moves another's definitions.
"""

import inspect
import warnings
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import cast

import pyarrow as pa
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    OnDemandFeatureView,
    RepoConfig,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.data_format import JsonFormat, ParquetFormat
from feast.feast_object import FeastObject
from feast.types import Bytes, FeastType, Float32, Float64, Int64, String, UnixTimestamp

from feature_repo.activity import AGGREGATES, Kind
from feature_repo.features import CATALOGUE
from feature_repo.offline_store import LOGGED_TAG, VigilOfflineStoreConfig
from feature_repo.online_store import RECORD_TAG, STATE_FIELD, VigilOnlineStoreConfig
from feature_repo.settings import Settings
from feature_repo.snapshot import COLUMNS
from feature_repo.state import STATE_BYTES
from feature_repo.vectors import REQUEST

PROJECT = "vigil"
SERVICE = "vigil_autoencoder"
ONLINE_SERVICE = "vigil_autoencoder_online"
MERCHANT_VIEW = "merchant_risk"
_KINDS: dict[Kind, FeastType] = {Kind.INTEGER: Int64, Kind.NUMBER: Float64, Kind.TIME: UnixTimestamp}


def registry_path(settings: Settings, data: str | None = None) -> Path:
    """The shared registry, or the one of a data set opened by name."""
    folder = settings.home / "feast" if data is None else settings.home / "data" / data
    return folder / "registry.db"


def repo_config(settings: Settings, data: str | None = None) -> RepoConfig:
    """What feature_store.yaml says, with this process's settings in place."""
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry=str(registry_path(settings, data)),
        online_store=VigilOnlineStoreConfig(
            redis_url=settings.redis_url, partitions=settings.partitions, murmur2=settings.murmur2
        ).model_dump(),
        offline_store=VigilOfflineStoreConfig().model_dump(),
        entity_key_serialization_version=3,
        repo_path=Path(__file__).parent,
    )


def store(settings: Settings, data: str | None = None) -> FeatureStore:
    """Feast over what was applied."""
    # Feast says at each read that stream and on-demand views are young; nobody can act on it.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"feast\.")
    return FeatureStore(config=repo_config(settings, data))


def apply(settings: Settings, data: str | None = None) -> FeatureStore:
    """Register the objects and forget those no longer defined; doing it twice changes nothing."""
    feast = store(settings, data)
    wanted = objects(settings, data)
    names = {thing.name for thing in wanted}
    registered: list[FeastObject] = [
        *feast.list_feature_services(),
        *feast.list_on_demand_feature_views(),
        *feast.list_stream_feature_views(),
        *feast.list_batch_feature_views(),
        *feast.list_data_sources(),
        *feast.list_entities(),
    ]
    gone = [thing for thing in registered if thing.name not in names]
    feast.apply(wanted, objects_to_delete=gone, partial=False)
    return feast


def objects(settings: Settings, data: str | None = None) -> list[FeastObject]:
    """Every Feast object, for the offline data set `data` (default: the one the settings name)."""
    folder = settings.home / "data" / (data or settings.data)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="who pays")
    payment = Entity(
        name="transaction", join_keys=["transaction_id"], value_type=ValueType.STRING, description="one payment"
    )
    logged = FeatureView(
        name="transaction_features",
        entities=[payment],
        ttl=timedelta(0),
        schema=_vector_fields(),
        source=_offline("features", folder, "vectors of past payments, written by vigil replay"),
        online=False,
        tags={LOGGED_TAG: "true"},
        description="what the kernel computed when the payment arrived",
    )
    states = _offline("states", folder, "user states at the end of a history, written by vigil replay")
    activity = _user_activity(settings, user, states)
    merchant = Entity(name="merchant", join_keys=["merchant"], value_type=ValueType.STRING, description="who is paid")
    risk = FeatureView(
        name=MERCHANT_VIEW,
        entities=[merchant],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Float32) for name in COLUMNS],
        source=_offline("merchants", folder, "daily snapshots of merchants, written by vigil replay"),
        description="payments and relative fraud risk of merchants, from what had arrived (merchants.py)",
    )
    request = RequestSource(
        name="payment",
        schema=[Field(name=field.name, dtype=_feast_type(field.type)) for field in REQUEST],
        description="a payment as the contract has it; event_time in microseconds since 1970, UTC",
    )
    inputs = KernelView(
        name="transaction_inputs",
        sources=[request, activity[[STATE_FIELD]], risk],
        # No descriptions: Feast drops them from on-demand fields and then misses the fields.
        schema=[Field(name=field.name, dtype=field.dtype) for field in _vector_fields()],
        mode="python",
        udf=cast(FunctionType, transaction_inputs),
        udf_string=inspect.getsource(transaction_inputs),
        description="the kernel over a payment, its user's state and its merchant; nothing is written",
    )
    services = [
        FeatureService(name=SERVICE, features=[logged], description="what the model line trains on"),
        FeatureService(name=ONLINE_SERVICE, features=[inputs], description="the same columns of a new payment"),
    ]
    sources = [logged.batch_source, activity.batch_source, activity.stream_source, risk.batch_source, request]
    views: list[FeastObject] = [logged, activity, risk, inputs]
    return [user, payment, merchant, *(source for source in sources if source), *views, *services]


class KernelView(OnDemandFeatureView):
    """An on-demand view whose columns are declared, from features.NAMES, so nothing is inferred.

    Feast would infer them by calling the kernel with made-up bytes, which it rightly refuses.
    """

    def infer_features(self) -> None:
        return


def transaction_inputs(inputs: dict[str, list]) -> dict[str, list]:  # type: ignore[type-arg]  # Any is not in its reach
    # Feast stores this text in its registry and runs it by itself, so it names all it needs and no more.
    from feature_repo.vectors import vectors

    return vectors(inputs)


def _user_activity(settings: Settings, user: Entity, states: FileSource) -> StreamFeatureView:
    payments = KafkaSource(
        name="transactions",
        kafka_bootstrap_servers=settings.kafka_bootstrap,
        topic=settings.topic,
        timestamp_field="timestamp",
        message_format=JsonFormat(schema_json=""),
        batch_source=states,
        description="payments, folded into user states by the Spark job",
    )
    record = Field(name=STATE_FIELD, dtype=Bytes, description=f"the sealed state record, {STATE_BYTES} bytes")
    aggregates = [Field(name=a.name, dtype=_KINDS[a.kind], description=a.meaning) for a in AGGREGATES]
    return StreamFeatureView(
        name="user_activity",
        entities=[user],
        ttl=timedelta(0),
        schema=[record, *aggregates],
        source=payments,
        tags={RECORD_TAG: "true"},
        description="the user's state after the last payment folded in",
    )


def _offline(name: str, folder: Path, description: str) -> FileSource:
    return FileSource(
        name=name,
        path=str(folder / f"{name}.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        description=description,
    )


def _vector_fields() -> list[Field]:
    return [
        Field(name=feature.name, dtype=Float32, description=f"{feature.window}: {feature.meaning}")
        for feature in CATALOGUE
    ]


def _feast_type(kind: pa.DataType) -> FeastType:
    if pa.types.is_string(kind):
        return String
    return Float64 if pa.types.is_floating(kind) else Int64
