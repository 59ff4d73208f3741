"""The notebooks that need the registry or PostgreSQL, in their order, on one simulated history."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from feature_repo.features import positions
from feature_repo.settings import Settings
from pipelines.history import import_history
from pipelines.replay import replay
from pipelines.simulator import folder, world
from pipelines.versions import Versions
from serving import scorer
from serving.artifact import Artifact
from streaming.decisions import NOT_UNSCORED
from streaming.ledger import Ledger
from streaming.partition import Road
from streaming.scoring import Pin, Pins, Scores
from tests.cases import notebooks
from tests.live import environment
from tests.unit.road_fakes import FakeChallenger, FakePublisher, FakeStates
from tests.unit.test_road import payment, records

DATA = "notebooks"


@pytest.fixture(scope="module")
def line(stack: Settings) -> Settings:
    """A data set, and a registered model that no other test knows."""
    made = stack.home / "made"
    folder.write(world.build(world.Options(users=250, seed=3, prevalence=0.03)), 40, made)
    import_history(stack, made / folder.HISTORY, DATA)
    replay(stack, DATA)
    return stack.model_copy(update={"model_name": "line-notebooks", "topic": "notebooks", "data": DATA})


@pytest.fixture(scope="module")
def run(line: Settings) -> Callable[[str], str]:
    given = {"VIGIL_MODEL_NAME": line.model_name, "VIGIL_DATA": DATA, "VIGIL_TOPIC": line.topic}
    return lambda name: notebooks.run(name, environment(line) | given)


def test_train_and_register_then_compare_then_explain(line: Settings, run: Callable[[str], str]) -> None:
    assert "version 1 of line-notebooks" in run("02-train-and-register.ipynb")
    assert "version 2 of line-notebooks" in run("02-train-and-register.ipynb")
    assert "version 2 is not to be told from" in run("03-compare-two-versions.ipynb")  # the same recipe and rows
    decide(line, Versions(line).load("2"))
    printed = run("04-explain-one-decision.ipynb")
    assert "the threshold is " in printed and "with the " in printed


def decide(line: Settings, artifact: Artifact) -> None:
    """The history's payments as the stream decides them, with the model in this process."""
    rows = pq.read_table(line.home / "data" / DATA / "history.parquet").to_pylist()
    values: list[bytes | None] = [
        payment(number, row["user_id"], row["amount"], timestamp=row["event_time"].isoformat(),
                merchant=row["merchant"], location=row["location"], payment_method=row["payment_method"])
        for number, row in enumerate(rows)
    ]  # fmt: skip
    pin = Pin(artifact.version, artifact.manifest.feature_set_id, (), artifact.manifest.threshold)
    ledger = Ledger(line.postgres_dsn, line.topic)
    alone = line.model_copy(update={"partitions": 1})  # so that every payment lies where it belongs
    fakes: Any = (FakeStates(), FakePublisher(), in_process(artifact), FakeChallenger())
    road = Road(alone, ledger, *fakes)
    road.take(records(values), Pins(pin), frozenset(), None)


def in_process(artifact: Artifact) -> Callable[[npt.NDArray[np.float32], Pin | None], Scores]:
    columns = positions(artifact.manifest.columns)
    return lambda features, pin: Scores(
        scorer.score(artifact, features[:, columns]), np.full(len(features), NOT_UNSCORED, np.uint8), pin
    )
