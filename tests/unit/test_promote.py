"""A rollback that names the champion it goes back from: sent twice, it is done once."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from api.models.schemas import RollbackBody
from api.models.service import ChampionMoved, ModelsService
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from pipelines.promote import WORK
from pipelines.requests import ROLLBACK, Request

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ASKED = Request(
    1, NOW, None, "anna", ROLLBACK, "m", "1", None, None, None, 1, NOW, *[None] * 9
)  # fmt: skip


class Registry:
    """Versions of the pipelines and registry of the query service: both know the aliases."""

    def __init__(self, **now: str) -> None:
        self.now = now

    def aliases(self, _: str = "") -> dict[str, str]:
        return dict(self.now)

    def point(self, alias: str, version: str) -> None:
        self.now[alias] = version

    def load(self, version: str) -> None:
        """Sound."""


class Written:
    """Cursor and table of requests: what is written down."""

    def __init__(self) -> None:
        self.added: list[Any] = []
        self.outcomes: list[str] = []

    def execute(self, statement: str, values: Any = ()) -> None:
        if statement.startswith("UPDATE promotion_requests"):
            self.outcomes.append(values[0])

    def add(self, action: str, actor: str, name: str, values: dict[str, str | None]) -> int:
        self.added.append(values)
        return len(self.added)


def worked(registry: Registry, cursor: Written, request: Request) -> None:
    WORK[ROLLBACK](Settings(), registry, cursor, request)  # type: ignore[arg-type]


def test_asked_for_twice_it_is_done_once() -> None:
    registry, cursor = Registry(champion="2", previous="1"), Written()
    for _ in range(2):
        worked(registry, cursor, ASKED)
    assert registry.now == {"champion": "1", "previous": "2"} and cursor.outcomes == ["moved", "unchanged"]
    worked(registry, cursor, replace(ASKED, version=None))
    assert registry.now == {"champion": "2", "previous": "1"}  # one that names nothing goes back whatever decides


def test_to_a_version_that_is_no_longer_the_previous_one_it_is_refused() -> None:
    registry = Registry(champion="3", previous="2")
    with pytest.raises(BadConfiguration, match="version 1 is not the previous champion by now"):
        worked(registry, Written(), ASKED)
    assert registry.now == {"champion": "3", "previous": "2"}


def test_the_service_refuses_one_from_another_champion_than_decides() -> None:
    registry, written = Registry(champion="2", previous="1"), Written()
    service = ModelsService(registry, written, None, lambda _: None, "m", lambda: NOW)  # type: ignore[arg-type]
    service.rollback(RollbackBody(from_version="2"), "anna")
    service.rollback(RollbackBody(from_version=None), "anna")
    assert written.added == [{"version": "1"}, {}]
    with pytest.raises(ChampionMoved):
        service.rollback(RollbackBody(from_version="1"), "anna")
