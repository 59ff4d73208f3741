"""Real servers for tests: one stack per test run, on free ports, in a folder of its own.

A pytest plugin: `pytest_plugins = ["tests.live"]` in the top `conftest.py`. A run that ends in any way
takes its servers along: the fixture stops them, and their supervisor ends with the process that runs pytest.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_repo import settings as configuration
from feature_repo.settings import Settings
from infra.local.services import SERVERS
from infra.local.stack import Stack

KEPT = ("VIGIL_CACHE", "VIGIL_JAVA_HOME", "VIGIL_MAVEN_ROOT", "VIGIL_POSTGRES_BIN", "VIGIL_REDIS_SERVER")


@pytest.fixture(scope="session")
def hermetic() -> Iterator[None]:
    """No `VIGIL_*` variable of the shell reaches a test, but those that say where programs come from."""
    with pytest.MonkeyPatch.context() as patch:
        for name in configuration.inherited():
            if name.startswith("VIGIL_") and name not in KEPT:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def running(hermetic: None) -> Iterator[Stack]:
    """The running stack itself, for tests that start, stop or break parts of it."""
    stack = new_stack()
    try:
        stack.up(SERVERS)
        yield stack
    finally:
        stack.erase()


@pytest.fixture(scope="session")
def stack(running: Stack) -> Settings:
    """Settings that lead to Kafka, PostgreSQL, Redis, Elasticsearch and MLflow, provisioned and shared."""
    return running.settings


def new_stack() -> Stack:
    """A stack on free ports in a new temporary home; nothing runs yet. Call `erase` when done."""
    home = Path(tempfile.mkdtemp(prefix="vigil-test-")).resolve()
    return Stack(configuration.load(home=home, ports="random"), while_pid=os.getpid())


def environment(settings: Settings) -> dict[str, str]:
    """For a child process, such as a `vigil` command, that shall use the same servers."""
    return configuration.inherited() | {"VIGIL_HOME": str(settings.home)}
