"""The model service as it runs: BentoML, a registry whose alias moves, Feast's online store, a topic."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import mlflow
import numpy as np
import pyarrow as pa
import pytest
import redis
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from mlflow import MlflowClient

from feature_repo import definitions, kernel, state
from feature_repo.errors import ModelVersionMismatch
from feature_repo.hashing import events_of, partitions_of
from feature_repo.keys import state_key
from feature_repo.parser import parse_one
from feature_repo.problem import MEDIA_TYPE
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from infra.local.ports import free_port
from serving.client import ModelClient
from serving.registry import Held
from serving.report import Report
from tests.cases import tiny_model
from tests.live import environment

SECONDS_TO_FOLLOW = 60.0  # the alias is polled every 2 s; the rest is a loaded machine
# Code that compiles in the background holds the interpreter for seconds at a time.
get = partial(httpx.get, timeout=60)
post = partial(httpx.post, timeout=60)


class Registered:
    """A registered model of the test's own; `publish` is what training and promotion do."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        mlflow.set_tracking_uri(settings.mlflow_url)
        self.name = f"served-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        self._client = MlflowClient(settings.mlflow_url)
        self._client.create_registered_model(self.name)

    def publish(self, scale: float = 0.1, spoilt: bool = False, alias: str = "champion") -> str:
        """A new version with the alias on it; returns its number."""
        path = self._folder / "model.onnx"
        sha256 = tiny_model.write(path, scale=scale)
        if spoilt:
            path.write_bytes(path.read_bytes()[:-4] + b"oops")
        with mlflow.start_run() as run:
            mlflow.log_artifact(str(path), "model")
            source = mlflow.get_artifact_uri("model")
        made = self._client.create_model_version(self.name, source, run.info.run_id, tags={"artifact_sha256": sha256})
        self._client.set_registered_model_alias(self.name, alias, made.version)
        return str(made.version)

    def clear(self, alias: str) -> None:
        self._client.delete_registered_model_alias(self.name, alias)


@pytest.fixture(scope="module")
def registered(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return Registered(stack, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def topic(stack: Settings) -> str:
    name = f"payments-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(name, stack.partitions, 1)])[name].result(30)
    return name


@pytest.fixture(scope="module")
def url(stack: Settings, registered: Registered, topic: str) -> Iterator[str]:
    """The service, ready on its first champion."""
    definitions.apply(stack)
    registered.publish()
    with serving(stack, VIGIL_MODEL_NAME=registered.name, VIGIL_TOPIC=topic) as url:
        eventually(lambda: get(f"{url}/ready").status_code == 200, 180)
        yield url


@contextmanager
def serving(settings: Settings, **variables: str) -> Iterator[str]:
    """`bentoml serve` as the local stack starts it, on a port of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    home = settings.home / f"serving-{port}"
    home.mkdir()
    argv = [sys.executable, "-m", "bentoml", "serve", "serving.service:VigilService"]
    own = {"VIGIL_SERVING_URL": url, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true", **variables}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, "--host", "127.0.0.1", "--port", str(port)],
            env=environment(settings) | own,
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        eventually(lambda: answers(f"{url}/live"), 120)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def eventually(so: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < deadline, "it did not come to be so in time"
        time.sleep(0.1)


def champion(url: str) -> str:
    return str(get(f"{url}/models").json()["champion"])


def payment(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "transaction_id": uuid.uuid4().hex,
        "user_id": f"user-{uuid.uuid4().hex[:8]}",
        "amount": 42.5,
        "timestamp": now.isoformat(),
        "merchant": "Online Store",
        "location": "New York",
        "payment_method": "credit_card",
        **changes,
    }


def test_moving_the_alias_changes_the_model_without_a_restart_or_a_mixed_batch(
    url: str, registered: Registered
) -> None:
    X = np.linspace(0, 3, 2_000 * len(tiny_model.COLUMNS), dtype="<f4").reshape(2_000, -1)
    expected: dict[str, np.ndarray[Any, Any]] = {}
    seen: list[str] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def score_all_the_time() -> None:
        try:
            with ModelClient(url, timeout_s=60) as client:
                while not stop.is_set():
                    models = client.models()
                    model = models.get(models.champion)
                    scored = client.score(X, model.version, model.feature_set_id)["score"]
                    known = expected.setdefault(model.version, scored)
                    np.testing.assert_array_equal(scored, known)
                    seen.append(model.version)
        except BaseException as error:
            failures.append(error)

    before = champion(url)
    scoring = threading.Thread(target=score_all_the_time)
    scoring.start()
    try:
        eventually(lambda: len(seen) > 3 or bool(failures), 30)
        after = registered.publish(scale=0.3)
        eventually(lambda: after in seen or bool(failures), SECONDS_TO_FOLLOW)
    finally:
        stop.set()
        scoring.join()
    assert not failures
    assert list(dict.fromkeys(seen)) == [before, after]
    assert not np.array_equal(expected[before], expected[after])
    with ModelClient(url, timeout_s=60) as client:
        assert [model.version for model in client.models().loaded] == [after, before]
        model = client.models().get(before)
        np.testing.assert_array_equal(client.score(X, before, model.feature_set_id)["score"], expected[before])


def test_a_spoilt_artefact_is_refused_while_the_old_model_serves(url: str, registered: Registered) -> None:
    before = champion(url)
    bad = registered.publish(scale=0.5, spoilt=True)
    eventually(lambda: get(f"{url}/ready").json()["refused"] is not None, SECONDS_TO_FOLLOW)
    assert get(f"{url}/ready").json()["refused"] == {"version": bad, "code": "ARTIFACT_CORRUPT"}
    assert champion(url) == before
    assert post(f"{url}/detect", json=payment()).json()["model_version"] == before
    good = registered.publish(scale=0.2)
    eventually(lambda: champion(url) == good, SECONDS_TO_FOLLOW)
    assert get(f"{url}/ready").json()["refused"] is None


def test_challengers_come_and_go_under_load_and_a_spoilt_one_harms_nobody(url: str, registered: Registered) -> None:
    X = np.linspace(0, 3, 2_000 * len(tiny_model.COLUMNS), dtype="<f4").reshape(2_000, -1)
    stop = threading.Event()
    failures: list[BaseException] = []
    challengers: list[str | None] = []
    before = champion(url)

    def score_all_the_time() -> None:
        """What the stream does: both versions, those that were named together."""
        try:
            with ModelClient(url, timeout_s=60) as client:
                known = client.score(X, before, client.models().get(before).feature_set_id)["score"]
                while not stop.is_set():
                    models = client.models()
                    assert models.champion == before
                    scored = client.score(X, before, models.get(before).feature_set_id)["score"]
                    np.testing.assert_array_equal(scored, known)
                    if models.challenger is not None:
                        model = models.get(models.challenger)
                        other = client.score(X, model.version, model.feature_set_id)["score"]
                        assert not np.array_equal(other, known)
                    challengers.append(models.challenger)
        except ModelVersionMismatch:
            challengers.append(None)  # let go between the two calls: its columns stay empty for once
            if not stop.is_set():
                score_all_the_time()
        except BaseException as error:
            failures.append(error)

    def challenger_is(version: str | None) -> None:
        eventually(lambda: challengers[-1:] == [version] or bool(failures), SECONDS_TO_FOLLOW)

    scoring = threading.Thread(target=score_all_the_time)
    scoring.start()
    try:
        challenger_is(None)
        first = registered.publish(scale=0.7, alias="challenger")
        challenger_is(first)
        second = registered.publish(scale=0.8, alias="challenger")
        challenger_is(second)
        spoilt = registered.publish(scale=0.9, alias="challenger", spoilt=True)
        challenger_is(None)
        refused = get(f"{url}/ready").json()
        assert refused["challenger_refused"] == {"version": spoilt, "code": "ARTIFACT_CORRUPT"}
        assert refused["refused"] is None
        registered.clear("challenger")
        eventually(lambda: get(f"{url}/ready").json()["challenger_refused"] is None, SECONDS_TO_FOLLOW)
    finally:
        stop.set()
        scoring.join()
    assert not failures


def test_each_worker_tells_redis_what_it_holds_and_the_note_expires(stack: Settings, url: str) -> None:
    store = redis.Redis.from_url(stack.redis_url)
    notes = {key: store.get(key) for key in store.scan_iter("vigil:serving:*")}
    mine = [key for key, note in notes.items() if note is not None and url.encode() in note]
    assert len(mine) == 1
    assert champion(url).encode() in (store.get(mine[0]) or b"")
    assert 0 < store.ttl(mine[0]) <= 10


def test_detection_reads_the_state_the_stream_wrote(stack: Settings, url: str) -> None:
    now = datetime.now(UTC)
    user = f"user-{uuid.uuid4().hex[:8]}"
    past = [
        parse(payment(user_id=user, amount=10 + i, timestamp=(now - timedelta(hours=20 - i)).isoformat()))
        for i in range(12)
    ]
    newest = payment(user_id=user, amount=900, timestamp=now.isoformat())
    events = events_of(pa.Table.from_batches([*past, parse(newest)]).combine_chunks().to_batches()[0], no_snapshot)
    record = state.empty(events.user[:1])
    features, _ = kernel.fold(record, np.zeros(13, np.int64), events, -1, np.arange(13))
    store_state(stack, user, past)
    answer = post(f"{url}/detect", json=newest)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()["features"].values()) == [float(str(value)) for value in features[-1]]


def store_state(settings: Settings, user: str, past: list[pa.RecordBatch]) -> None:
    """What the stream leaves in Redis after these payments."""
    events = events_of(pa.Table.from_batches(past).combine_chunks().to_batches()[0], no_snapshot)
    record = state.empty(events.user[:1])
    kernel.fold(record, np.zeros(len(past), np.int64), events, 0, np.arange(len(past)))
    state.seal(record)
    partition = int(partitions_of(pa.array([user]), settings.partitions, murmur2=settings.murmur2)[0])
    redis.Redis.from_url(settings.redis_url).set(state_key(user, partition), record.tobytes())


def parse(document: dict[str, Any]) -> pa.RecordBatch:
    return parse_one(httpx.Request("POST", "http://x", json=document).content, int(time.time() * 1e6))


def test_a_damaged_state_is_no_score(stack: Settings, url: str) -> None:
    user = f"user-{uuid.uuid4().hex[:8]}"
    partition = int(partitions_of(pa.array([user]), stack.partitions, murmur2=stack.murmur2)[0])
    redis.Redis.from_url(stack.redis_url).set(state_key(user, partition), b"\0" * state.STATE_BYTES)
    answer = post(f"{url}/detect", json=payment(user_id=user))
    assert (answer.status_code, answer.json()["code"]) == (500, "STATE_CORRUPT")


def test_recording_puts_the_payment_in_its_users_partition(stack: Settings, url: str, topic: str) -> None:
    document = payment()
    answer = post(f"{url}/detect?record=true", json=document)
    assert answer.status_code == 200, answer.text
    name, partition, offset = answer.json()["recorded_as"].rsplit("-", 2)
    assert name == topic
    assert int(partition) == partitions_of(pa.array([document["user_id"]]), stack.partitions)[0]
    consumer = Consumer({"bootstrap.servers": stack.kafka_bootstrap, "group.id": uuid.uuid4().hex})
    consumer.assign([TopicPartition(topic, int(partition), int(offset))])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert message.key() == document["user_id"].encode()
    assert message.value() == httpx.Request("POST", "http://x", json=document).content


@pytest.mark.parametrize("path", ["/score", "/detect", "/models", "/", "/schema.json", "/docs.json", "/metrics"])
def test_bentoml_unpickles_nothing_anywhere(url: str, path: str) -> None:
    for content_type in ("application/vnd.bentoml+pickle", "application/octet-stream; pickle", "text/plain"):
        if path == "/score" and content_type.startswith("application/octet-stream"):
            continue
        response = post(url + path, content=pickle.dumps([1]), headers={"Content-Type": content_type})
        assert response.status_code == 415
        assert response.headers["content-type"] == MEDIA_TYPE


def test_a_restart_without_the_registry_serves_the_last_good_model(
    stack: Settings, url: str, registered: Registered
) -> None:
    before = champion(url)
    with serving(stack, VIGIL_MODEL_NAME=registered.name, VIGIL_MLFLOW_URL="http://127.0.0.1:1") as other:
        eventually(lambda: answers(f"{other}/models"), 30)
        assert champion(other) == before
        assert get(f"{other}/ready").json()["registry_reachable"] is False


def test_a_challenger_is_named_once_every_worker_holds_it(stack: Settings) -> None:
    """Two workers of a service of their own; a note of another service's does not count."""
    service = f"http://{uuid.uuid4().hex}"
    quick, slow, other = (Report(stack.redis_url, url) for url in (service, service, "http://another"))
    for number, report in enumerate((quick, slow, other)):
        report.worker = f"{service}:{number}"
    one, two = (SimpleNamespace(version=v, sha256="", manifest=SimpleNamespace(feature_set_id="")) for v in "12")
    both = Held(champion=one, challenger=two)  # type: ignore[arg-type]  # what a note tells of them
    alone = Held(champion=one)  # type: ignore[arg-type]
    try:
        for report in (slow, other):
            report.write(alone)
        quick.write(both)
        assert not quick.everywhere("2") and quick.everywhere("1")
        slow.write(both)
        assert quick.everywhere("2")
        slow.write(alone)
        slow.withdraw()
        assert quick.everywhere("2"), "who stopped does not count"
    finally:
        for report in (quick, other):
            report.withdraw()
