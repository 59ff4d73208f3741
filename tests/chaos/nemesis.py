"""Faults of every kind against a running stack. Each does its harm, and what an operator would do about it; the local
stack restarts our own processes by itself.

A new kind is a function of `Site` in FAULTS: what it returns stands in the table, what it raises fails the run.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import numpy_helper

from infra.local.ports import free_port
from pipelines.versions import Versions
from serving.artifact import MANIFEST_KEY
from serving.client import ModelClient
from serving.source import SHA256_TAG
from tests.cases import tiny_model
from tests.cases.registry import publish
from tests.chaos import outages
from tests.chaos.site import COMMAND_S, Site, Unmet, eventually
from tests.live import environment
from training.registration import mlflow_client

STEPS = ("parse", "claim", "load", "fold", "score", "shadow", "decide", "encode", "commit", "save", "publish")
# Between these a job that lost its partition has something left to do that it must not do any more.
BEFORE_THE_SAVE = STEPS[1:9]
WORKER = "_bentoml_impl.worker.service"  # in the command line of a process that serves the model
ALIAS_MOVES = 100


# ---- what is killed and comes back by itself ------------------------------------------------------------


def _kill(name: str) -> Callable[[Site], str]:
    def kill(site: Site) -> str:
        site.leader(name).kill()
        return "kill -9"

    return kill


def _kill_child(name: str, mark: str, *, of_its_like: bool = False) -> Callable[[Site], str]:
    def kill(site: Site) -> str:
        site.child(name, mark, of_its_like=of_its_like).kill()
        return "kill -9"

    return kill


# ---- a process that dies, or sleeps, between two steps --------------------------------------------------


def worker_dies_after_a_step(site: Site) -> str:
    step = site.chance.choice(STEPS)
    with site.halted(step) as worker:
        worker.kill()
    return step


def job_dies_after_a_step(site: Site) -> str:
    """Its worker outlives it asleep, and wakes up when the next job has long gone on."""
    step = site.chance.choice(STEPS)
    with site.halted(step) as worker:
        site.leader("stream").kill()
        site.mark()
        eventually(lambda: " records in " in site.said("stream"), "the next job took no batch", COMMAND_S)
    with suppress(psutil.TimeoutExpired):
        worker.wait(10)
    with suppress(psutil.Error):
        worker.kill()
    return step


def rival_takes_over(site: Site) -> str:
    """A second job, of another home, decides what a sleeping one is about to; the sleeper wakes up and must stop."""
    step = site.chance.choice(BEFORE_THE_SAVE)
    with site.halted(step), _rival(site) as rival:
        code = rival.wait(COMMAND_S)
        if code != 0:
            raise Unmet(f"the rival ended with {code}")
    return f"{step}, {site.must_say('stream', 'FENCED', 'LEDGER_MOVED')}"


@contextmanager
def _rival(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    home = site.settings.home / "rival"
    (home / "logs").mkdir(parents=True, exist_ok=True)
    shutil.copy(site.stack.files.stack_env, home)
    ports = {name: str(free_port()) for name in ("VIGIL_SPARK_UI_PORT", "VIGIL_STREAM_METRICS_PORT")}
    with (home / "logs" / "stream.log").open("ab") as log:
        rival = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "stream", "--until-caught-up"],
            env=environment(site.settings) | {"VIGIL_HOME": str(home)} | ports, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield rival
        finally:
            with suppress(ProcessLookupError):
                rival.kill()
            rival.wait()


# ---- the model service


def freeze_serving(site: Site) -> str:
    """Nobody answers for longer than the stream is patient: unscored, with the reason; scored later."""
    worker = site.child("serving", WORKER)
    worker.suspend()
    try:
        said = site.must_show("MODEL_DOWN", "serving")
        time.sleep(site.chance.uniform(1, 5))
    finally:
        worker.resume()
    return f"SIGSTOP, {said}"


def serving_starts_without_mlflow(site: Site) -> str:
    """What served last serves again."""
    before = _served(site)
    site.stack.stop("mlflow")
    try:
        site.leader("serving").kill()
        eventually(lambda: not site.leader_is_up("serving"), "serving did not end")
        site.leader("serving")
        eventually(lambda: _served(site) == before, f"version {before} does not serve again", COMMAND_S)
        if any(one.name == "mlflow" and one.pid for one in site.stack.status()):
            raise Unmet("MLflow was not away")
    finally:
        site.stack.restart("mlflow")
    return f"version {before} serves"


def _served(site: Site) -> str | None:
    with suppress(Exception), ModelClient(site.settings.serving_url, 5.0) as client:
        return client.models().champion
    return None


def alias_moved(site: Site) -> str:
    """Every batch keeps the version it was pinned to."""
    versions = Versions(site.settings)
    for turn in range(ALIAS_MOVES):
        versions.point("champion", site.versions[turn % 2])
        time.sleep(site.chance.uniform(0, 0.3))
    return f"{ALIAS_MOVES} times"


def broken_artifact(site: Site) -> str:
    """Refused before it serves, with the reason; what served goes on."""
    how = site.chance.choice(sorted(BREAKAGES))
    before = _served(site)
    with tempfile.TemporaryDirectory() as folder, mlflow_client(site.settings):
        file = Path(folder) / "model.onnx"
        sha256 = tiny_model.write(file, tiny_model.COLUMNS)
        BREAKAGES[how](file)
        broken = publish(site.settings, file, {SHA256_TAG: sha256})
    versions = Versions(site.settings)
    before = before or versions.aliases()["champion"]
    versions.point("champion", broken)
    try:
        site.must_say("serving", f"version {broken} refused")
        if (now := _served(site)) != before:
            raise Unmet(f"version {now} serves, not {before}")
    finally:
        versions.point("champion", before)
    return f"{how}: version {broken} refused, {before} served on"


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def _corrupt(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def _no_numbers(file: Path) -> None:
    model = onnx.load(str(file))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    weight.CopyFrom(numpy_helper.from_array(np.array(np.nan, "<f4"), "scale"))
    onnx.save_model(model, str(file))


def _other_features(file: Path) -> None:
    model = onnx.load(str(file))
    entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = entry.value.replace(tiny_model.COLUMNS[0], "of_another_project")
    onnx.save_model(model, str(file))


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "corrupt": _corrupt,
    "NaN weights": _no_numbers,
    "other features": _other_features,
}


# ---- the checkpoint


def checkpoint_deleted(site: Site) -> str:
    site.leader("stream")
    for folder in (site.settings.home / "spark").glob("checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
    return "while it runs"


def checkpoint_spoilt(site: Site) -> str:
    """And the job killed, so that somebody reads it."""
    content, what = site.chance.choice([(b"", "truncated"), (b'v1\n{}\n{"other":{"0":7}}', "another job's")])
    site.leader("stream").suspend()
    for file in (site.settings.home / "spark").glob("checkpoint-*/**/*"):
        if file.is_file():
            file.write_bytes(content)
    site.leader("stream").kill()
    return f"{what}, and kill -9"


FAULTS: dict[str, Callable[[Site], str]] = {
    "job killed": _kill("stream"),
    "its JVM killed": _kill_child("stream", "java"),
    "Python worker killed": _kill_child("stream", "pyspark.worker", of_its_like=True),
    "worker dies after a step": worker_dies_after_a_step,
    "job dies after a step, its worker later": job_dies_after_a_step,
    "rival takes over": rival_takes_over,
    "serving worker killed": _kill_child("serving", WORKER),
    "serving killed": _kill("serving"),
    "serving frozen": freeze_serving,
    "serving starts without MLflow": serving_starts_without_mlflow,
    "alias moved under load": alias_moved,
    "broken artefact promoted": broken_artifact,
    "MLflow killed": _kill("mlflow"),
    "indexer killed": _kill("indexer"),
    "lifecycle worker killed": _kill("lifecycle"),
    "checkpoint deleted": checkpoint_deleted,
    "checkpoint spoilt": checkpoint_spoilt,
    "PostgreSQL killed": outages.kill_server("postgres"),
    "PostgreSQL from an older backup": outages.postgres_from_older_backup,
    "Elasticsearch killed": outages.kill_server("elasticsearch"),
    "search index read-only": outages.search_read_only,
    "Kafka killed": outages.kill_server("kafka"),
    "Kafka refuses decisions": outages.kafka_refuses_decisions,
    "Redis from an older snapshot": outages.redis_from_older_snapshot,
    "Redis killed and emptied": outages.redis_emptied,
    "Redis flushed": outages.redis_flushed,
    "ten times the rate": outages.ten_times_the_rate,
    "partitions added": outages.partitions_added,
    "topic grown": outages.topic_grown,
    **{f"disk of {name} full": outages.disk_full(name) for name in outages.DISKS},
}


def plan(chance: random.Random, kinds: Collection[str], kills: int) -> list[str]:
    """Every kind once before any comes again, in random order."""
    names: list[str] = []
    while len(names) < kills:
        names += chance.sample(sorted(kinds), len(kinds))
    return names[:kills]
