"""Faults of the servers around the stream, and what README tells an operator to do about each: that, and nothing else.

What a function returns stands in the table, what it raises fails the run.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from feature_repo import settings as configuration
from feature_repo.keys import folded_key
from tests.chaos.site import COMMAND_S, Site, Unmet, decided, ends, eventually, query

INDEX = "decisions"
TOO_SMALL = "100"  # bytes: no message fits
SURGE, SURGE_S = 10, 60.0
# Of the stream's processes under ten times the rate: the driver's heap of half a GiB and three times that around it
# and in the Python processes, and a GiB for what is not known; 1.8 GiB were seen at 3,000 a second (2026-11-27).
MEMORY_BYTES = 3 << 30
FIRST = "SELECT min(first_offset) FROM ledger_ranges WHERE kafka_topic = %s AND kafka_partition = %s"
DISKS = ("postgres", "kafka", "elasticsearch", "redis", "spark")


def kill_server(name: str) -> Callable[[Site], str]:
    def kill(site: Site) -> str:
        site.leader(name).kill()
        down_s = site.chance.uniform(1, 8)
        time.sleep(down_s)
        site.restart_server(name)
        return f"kill -9, down {down_s:.0f} s"

    return kill


# ---- Redis


def redis_from_older_snapshot(site: Site) -> str:
    """A running job must not go on with states that lack payments."""
    with site.cache() as client:
        saved, folded = client.lastsave(), client.get(folded_key(0))
        client.bgsave()
        eventually(lambda: client.lastsave() != saved, "Redis did not save")
        eventually(lambda: client.get(folded_key(0)) != folded, "nothing was folded", COMMAND_S)
    time.sleep(site.chance.uniform(1, 3))
    site.leader("redis").kill()
    site.restart_server("redis")
    return site.must_say("stream", "STATE_BEHIND")


def redis_emptied(site: Site) -> str:
    site.leader("redis").kill()
    for file in (site.settings.home / "redis").rglob("*.rdb"):
        file.unlink()
    site.restart_server("redis")
    return _rebuilt(site, "STATE_LOST")


def redis_flushed(site: Site) -> str:
    with site.cache() as client:
        client.flushall()
    return _rebuilt(site, "STATE_LOST")


def _rebuilt(site: Site, code: str) -> str:
    site.must_say("stream", code)
    site.must_show(code, "stream")
    site.vigil("state", "rebuild")
    return f"{code}, rebuilt"


# ---- PostgreSQL


def postgres_from_older_backup(site: Site) -> str:
    """A backup of the running server as PostgreSQL's handbook has it; what was decided since is decided again."""
    home = site.settings.home / "postgres"
    data, backup = home / "data", home / "backup"
    shutil.rmtree(backup, ignore_errors=True)
    try:
        taken = _back_up(site)
        eventually(lambda: _further(decided(site.settings), taken), "nothing was decided", COMMAND_S)
        time.sleep(site.chance.uniform(1, 3))
        site.leader("postgres").kill()
        site.must_show("SERVICE_DOWN", "postgres")
        shutil.rmtree(data)
        backup.rename(data)
    finally:
        shutil.rmtree(backup, ignore_errors=True)
    site.restart_server("postgres")
    return _rebuilt(site, "STATE_AHEAD")


def _back_up(site: Site) -> dict[int, int]:
    """Offsets decided by then."""
    home = site.settings.home / "postgres"
    data, backup = home / "data", home / "backup"
    password = site.stack.files.secrets()["postgres"]
    dsn = psycopg2.extensions.make_dsn(site.settings.postgres_migrator_dsn, user="postgres", password=password)
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT pg_backup_start('chaos', fast => true)")
        _copy(data, backup)
        taken = decided(site.settings)
        cursor.execute("SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)")
        ((label,),) = cursor.fetchall()
    _copy(data / "pg_wal", backup / "pg_wal")
    (backup / "backup_label").write_text(label)
    shutil.chown(backup / "backup_label", data.stat().st_uid, data.stat().st_gid)
    for left in ("postmaster.pid", "postmaster.opts"):
        (backup / left).unlink(missing_ok=True)
    return taken


def _copy(source: "os.PathLike[str]", target: "os.PathLike[str]") -> None:
    """With owners. What vanishes meanwhile is of no account: the log of transactions knows of it."""
    subprocess.run(["cp", "-a", "-T", source, target], check=False, capture_output=True, timeout=COMMAND_S)


def _further(now: dict[int, int], then: dict[int, int]) -> bool:
    """Whether each partition was decided further."""
    return all(until > then.get(partition, 0) for partition, until in now.items())


# ---- Elasticsearch


def search_read_only(site: Site) -> str:
    """As it makes itself where its disk is nearly full; what it takes back before we saw enough is set again."""
    block = site.chance.choice(["index.blocks.write", "index.blocks.read_only_allow_delete"])
    with site.search() as client:
        try:

            def shown() -> bool:
                client.indices.put_settings(index=INDEX, settings={block: True})
                return bool(query(site.settings, "SELECT 1 FROM conditions WHERE code = 'SEARCH_BEHIND'"))

            eventually(shown, "nobody said SEARCH_BEHIND", COMMAND_S)
            said = site.must_show("SEARCH_BEHIND", "elasticsearch")
        finally:
            client.indices.put_settings(index=INDEX, settings={block: None})
    return f"{block}, {said}"


# ---- Kafka


def kafka_refuses_decisions(site: Site) -> str:
    """Payments come and are decided; what they came to is published once Kafka takes it."""
    with _too_small(site):
        return site.must_show("PUBLISH_BEHIND", "kafka")


@contextmanager
def _too_small(site: Site) -> Iterator[None]:
    admin = _admin(site)

    def change(value: str | None) -> None:
        how = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
        entry = ConfigEntry("max.message.bytes", value or "", incremental_operation=how)
        resource = ConfigResource(ResourceType.TOPIC, "decisions", incremental_configs=[entry])
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(30)

    change(TOO_SMALL)
    try:
        yield
    finally:
        change(None)


def _admin(site: Site) -> AdminClient:
    return AdminClient({"bootstrap.servers": site.settings.kafka_bootstrap, "log_level": 0})


def topic_grown(site: Site) -> str:
    """By the command alone, while payments come."""
    with site.load.unsettled():
        site.all_decided(COMMAND_S)
        return _grow(site, len(ends(site.settings)) + 1)


def partitions_added(site: Site) -> str:
    """With Kafka's own tools: read from their beginning, until the command takes them over."""
    with site.load.unsettled():
        site.all_decided(COMMAND_S)
        added = len(ends(site.settings))
        admin = _admin(site)  # kept: without it what it was asked ends unanswered
        admin.create_partitions([NewPartitions(site.settings.topic, added + 1)])[site.settings.topic].result(30)
        site.load.renew()
        eventually(lambda: ends(site.settings).get(added, 0) > 0, "nobody produced to the new partition")
        eventually(lambda: decided(site.settings).get(added, 0) > 0, "the new partition was not read", COMMAND_S)
        first = query(site.settings, FIRST, site.settings.topic, added)
        if first != [(0,)]:
            raise Unmet(f"the new partition was not read from its beginning: {first}")
        return f"by Kafka's tools, {_grow(site, added + 1)}"


def _grow(site: Site, partitions: int) -> str:
    site.vigil("topic", "grow", "--partitions", str(partitions))
    site.stack.settings = configuration.load(home=site.settings.home)
    if site.settings.partitions != partitions:
        raise Unmet(f"the stack goes by {site.settings.partitions} partitions, not {partitions}")
    site.load.renew()
    site.all_decided(COMMAND_S)  # what lay elsewhere is in its place before anything is sent twice again
    return f"grown to {partitions}"


# ---- load


def ten_times_the_rate(site: Site) -> str:
    """Payments wait, and nothing else happens: memory has a bound."""
    most, farthest = 0, 0
    with site.load.faster(SURGE):
        until = time.monotonic() + SURGE_S
        while time.monotonic() < until:
            time.sleep(1)
            most = max(most, site.memory("stream"))
            known = decided(site.settings)
            farthest = max(farthest, sum(end - known.get(at, 0) for at, end in ends(site.settings).items()))
    if most > MEMORY_BYTES:
        raise Unmet(f"the stream held {most / 2**30:.1f} GiB")
    return f"for {SURGE_S:.0f} s, at most {farthest:,} waited, {most / 2**30:.1f} GiB"


# ---- disks


def disk_full(name: str) -> Callable[[Site], str]:
    """And then it is not any more. A server that gave up is started again, as `vigil status` says."""

    def strike(site: Site) -> str:
        with site.disks.full(name):
            said = _HURT[name](site)
            time.sleep(site.chance.uniform(1, 5))
        return said + (_HEAL[name](site) if name in _HEAL else "")

    return strike


def _postgres_hurts(site: Site) -> str:
    site.must_say("stream", " holds for ")
    return "the stream held"


def _redis_hurts(site: Site) -> str:
    """It takes no writes once a snapshot that was due could not be saved: here one is due every second."""
    with site.cache() as client:
        client.config_set("save", "1 1")
    site.must_say("stream", "MISCONF")
    return site.must_show("STREAM_HOLDS", "redis")


def _redis_heals(site: Site) -> str:
    with site.cache() as client:

        def saved() -> bool:
            return bool(client.info("persistence")["rdb_last_bgsave_status"] == "ok")

        eventually(saved, "Redis did not save", COMMAND_S)
        client.config_set("save", "600 1")
    return ""


def _search_heals(site: Site) -> str:
    site.stack.restart("elasticsearch")  # the remedy of SEARCH_BEHIND
    return ", restarted"


def _restarted_if_down(name: str) -> Callable[[Site], str]:
    def heal(site: Site) -> str:
        if not site.down(name):
            return ""
        site.restart_server(name)
        return ", restarted"

    return heal


_HURT: dict[str, Callable[[Site], str]] = {
    "postgres": _postgres_hurts,
    "kafka": lambda site: site.must_show("SERVICE_DOWN", "kafka"),
    "elasticsearch": lambda site: site.must_show("SEARCH_BEHIND", "elasticsearch"),
    "redis": _redis_hurts,
    "spark": lambda site: site.must_say("stream", "STREAM_STOPPED"),
}
_HEAL: dict[str, Callable[[Site], str]] = {
    "postgres": _restarted_if_down("postgres"),
    "kafka": _restarted_if_down("kafka"),
    "elasticsearch": _search_heals,
    "redis": _redis_heals,
}
