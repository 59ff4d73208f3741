"""The whole road, once for all tests of this folder: servers, a promoted model, stream, indexer and API."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from feature_repo.settings import Settings
from infra.local.stack import Stack
from pipelines.demo import Demo, Scale
from tests.live import new_stack

SCALE = Scale(users=600, history_days=35, live_days=3, recipe="fast")


@dataclass(frozen=True)
class Road:
    """A running road with champion `version`."""

    stack: Stack
    demo: Demo
    version: str

    @property
    def settings(self) -> Settings:
        return self.stack.settings


@pytest.fixture(scope="package", autouse=True)
def patient(hermetic: None) -> Iterator[None]:
    """Payments get their scores, however long a machine that does much else takes over them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIGIL_MODEL_TIMEOUT_S", "30")
        yield


@pytest.fixture(scope="package")
def road(hermetic: None) -> Iterator[Road]:
    stack = new_stack()
    try:
        demo = Demo(stack, SCALE, lambda step, what: print(step, what, flush=True))
        version = demo.prepare()
        yield Road(stack, demo, version)
    finally:
        stack.erase()
