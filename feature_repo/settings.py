"""All settings, read once per process from the environment and from `$VIGIL_HOME/stack.env`.

`vigil up` writes `stack.env` (mode 0600) with the addresses and generated passwords of the servers it
started, so every command run beside it finds them; an environment variable wins over the file.
"""

import os
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One frozen object per process. Each field is the variable `VIGIL_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="VIGIL_", frozen=True, extra="ignore")

    home: Path = Field(Path(".vigil"), description="folder of all data, logs and generated secrets")

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers")
    postgres_dsn: str = Field("postgresql://vigil_writer@127.0.0.1:5432/vigil", description="role: writer")
    postgres_reader_dsn: str = Field(
        "postgresql://vigil_reader@127.0.0.1:5432/vigil", description="role: reader, used by the API"
    )
    postgres_migrator_dsn: str = Field(
        "postgresql://vigil_migrator@127.0.0.1:5432/vigil", description="role: migrator, owns the tables"
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Feast's online store")
    elasticsearch_url: str = Field("http://127.0.0.1:9200", description="search")
    mlflow_url: str = Field("http://127.0.0.1:5000", description="tracking server and registry")
    serving_url: str = Field("http://127.0.0.1:3000", description="BentoML service")
    api_url: str = Field("http://127.0.0.1:8000", description="query service")
    spark_ui_port: int = Field(4040, description="Spark's own page, on loopback")
    stream_metrics_port: int = Field(9464, ge=1, le=65_535, description="where the stream shows its metrics")
    indexer_metrics_port: int = Field(9465, ge=1, le=65_535, description="where the indexer shows its metrics")
    lifecycle_metrics_port: int = Field(
        9466, ge=1, le=65_535, description="where the lifecycle worker shows its metrics"
    )

    topic: str = Field("transactions", description="payments in")
    partitions: int = Field(4, ge=1, description="partitions of the payments topic; local stack: one per core")
    partitioner: str = Field(
        "murmur2", pattern="^(murmur2|crc32)$", description="how producers place a user: Java's or librdkafka's"
    )
    currency: str = Field("USD", pattern="^[A-Z]{3}$", description="currency of `amount` where none is given")
    pan_in_ids: bool = Field(False, description="also look for card numbers in transaction_id and user_id")
    future_tolerance_s: int = Field(300, ge=0, description="how far ahead of the broker's clock an event may be")

    model_name: str = Field("vigil-autoencoder", description="registered model whose champion serves")
    alias_poll_s: float = Field(2.0, gt=0, description="how often serving asks MLflow for the champion")
    serving_workers: int = Field(1, ge=1, description="BentoML worker processes")
    score_chunk_rows: int = Field(8_192, ge=1, description="rows per call to the model service")
    max_score_rows: int = Field(65_536, ge=1, description="rows the model service accepts in one call")
    reject_threshold: float | None = Field(
        None, ge=0, le=1, description="score at or above which a payment is rejected; off when unset"
    )

    batch_target_s: float = Field(
        1.0,
        gt=0,
        description="seconds a Spark batch may take: its size follows what it costs",
    )
    max_offsets_per_trigger: int = Field(
        200_000, ge=1, description="payments per Spark batch at most, whatever they cost"
    )
    model_timeout_s: float = Field(2.0, gt=0, description="deadline of one call to the model service")
    publish_timeout_s: float = Field(
        10.0, ge=1, description="how long Kafka may take to acknowledge decisions before they are published later"
    )
    dead_letter_ceiling: float = Field(0.2, gt=0, le=1, description="share of bad records that stops the job")
    dead_letter_floor: int = Field(50, ge=0, description="bad records below which the job never stops")

    state_snapshots: int = Field(3, ge=1, description="snapshots of user states that are kept, the newest")

    data: str = Field(
        "demo", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", description="data set whose features Feast serves offline"
    )

    retrain: str = Field(
        "off", pattern="^(off|drift|weekly)$", description="when the lifecycle worker trains a challenger by itself"
    )
    windows: bool = Field(True, description="run `vigil windows`, payments over time, with the local stack")
    retention_days: int | None = Field(
        None,
        ge=1,
        description="days of decisions the lifecycle worker keeps, dropping older ones daily; all when unset",
    )
    bind: str = Field("127.0.0.1", description="address the query service listens on; keys are needed beyond loopback")
    internal_bind: str = Field(
        "127.0.0.1", description="address of what asks for no key: model service, metrics, Spark's pages"
    )
    keys: str = Field(
        "auto", pattern="^(auto|on)$", description="`on`: the query service asks for keys on loopback as well"
    )
    requests_per_key: int = Field(60_000, ge=1, description="requests per minute of one key")
    requests_per_address: int = Field(
        1_200, ge=1, description="requests per minute of one address without a good key, where keys are needed"
    )
    requests_at_once: int = Field(256, ge=1, description="requests a worker answers at the same time")

    ports: str = Field(
        "default", pattern="^(default|random)$", description="ports of the local stack: usual or free ones"
    )
    cache: Path | None = Field(
        None, description="folder of fetched servers, shared by all homes; the user's cache folder when unset"
    )
    xdg_cache_home: Path | None = Field(
        None, validation_alias="XDG_CACHE_HOME", description="the desktop's word for the user's cache folder"
    )
    java_home: Path | None = Field(
        None,
        validation_alias=AliasChoices("java_home", "VIGIL_JAVA_HOME", "JAVA_HOME"),
        description="a JDK to consider beside those on the PATH and in the system's folders",
    )
    maven_root: str | None = Field(
        None, description="Maven repository to fetch the servers from instead of the public one"
    )
    postgres_bin: Path | None = Field(
        None, description="folder of PostgreSQL programs to run instead of the packaged ones"
    )
    redis_server: Path | None = Field(None, description="Redis server to run instead of the packaged one")
    redis_max_memory: str = Field("3gb", description="memory at which Redis refuses writes; never evicts")

    @property
    def keys_wanted(self) -> bool:
        return self.keys == "on" or not is_loopback(self.bind)

    @property
    def murmur2(self) -> bool:
        return self.partitioner == "murmur2"

    @property
    def librdkafka_partitioner(self) -> str:
        """librdkafka's name of the way producers place a key."""
        return {"murmur2": "murmur2_random", "crc32": "consistent_random"}[self.partitioner]

    @property
    def placement(self) -> str:
        """How users are placed on partitions, as Redis notes it beside their states."""
        return f"{self.partitions} {self.partitioner}"


@lru_cache(1_024)
def is_loopback(host: str) -> bool:
    """Whether an address or a host name, as a URL writes it, is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def inherited() -> dict[str, str]:
    """A copy of this process's environment, for a child process that gets more beside it."""
    return dict(os.environ)


def load(**overrides: Any) -> Settings:
    """Settings of this process: keyword overrides, then environment, then `$VIGIL_HOME/stack.env`."""
    home = Path(overrides.get("home") or os.environ.get("VIGIL_HOME") or ".vigil")
    values: dict[str, Any] = {"_env_file": home / "stack.env", "home": home.resolve(), **overrides}
    return Settings(**values)
