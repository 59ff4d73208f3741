"""Switches of the stream in the real PostgreSQL: thrown by command and over the API, each with its trace."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.app import create_app
from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from feature_repo.switches import INTAKE, PAUSED, RULES_ONLY, RUNNING, SCORED, SCORING
from pipelines import switches
from pipelines.cli import app
from tests.cases.model_service import running
from tests.live import environment


@pytest.fixture
def settings(stack: Settings) -> Iterator[Settings]:
    yield stack
    switches.throw(stack, INTAKE, RUNNING, "test", "over")
    switches.throw(stack, SCORING, SCORED, "test", "over")


@pytest.fixture
def api(settings: Settings) -> Iterator[httpx.Client]:
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def command(settings: Settings, *words: str) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"], env=environment(settings), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_command_throws_a_switch_once_and_history_tells_who_and_why(settings: Settings) -> None:
    before = len(switches.history(settings, 1_000))
    paused = command(settings, "switch", "pause", "--reason", "looking  into it")
    assert paused == {"name": INTAKE, "state": PAUSED, "changed": True}
    assert command(settings, "switch", "pause", "--reason", "again")["changed"] is False
    assert {row["name"]: row["state"] for row in command(settings, "switch")} == {INTAKE: PAUSED, SCORING: SCORED}
    command(settings, "switch", "rules-only", "--reason", "suspicious")
    command(settings, "switch", "resume", "--reason", "seen")
    told = command(settings, "switch", "history")
    said = [(row["name"], row["before"], row["state"], row["reason"]) for row in told[: len(told) - before]]
    assert said == [
        (INTAKE, PAUSED, RUNNING, "seen"),
        (SCORING, SCORED, RULES_ONLY, "suspicious"),
        (INTAKE, RUNNING, PAUSED, "looking into it"),
    ]


def test_status_says_what_a_thrown_switch_keeps_from_happening_and_how_to_take_it_back(settings: Settings) -> None:
    assert "stream" not in command(settings, "status")["degraded"]
    switches.throw(settings, INTAKE, PAUSED, "ada", "looking into it")
    told = command(settings, "status")
    (paused,) = (one for one in told["conditions"] if one["code"] == "PAUSED")
    assert "stream" in told["degraded"]
    assert "ada" in paused["cause"] and paused["remedy"].startswith("vigil switch resume")
    shown = CliRunner().invoke(app, ["status"], env=environment(settings))
    assert "PAUSED stream" in shown.stdout and "try: vigil switch resume" in shown.stdout


def test_of_two_who_throw_it_at_once_one_does(settings: Settings) -> None:
    before, together = len(switches.history(settings, 1_000)), Barrier(4)

    def throw(who: int) -> bool:
        together.wait()
        return switches.throw(settings, INTAKE, PAUSED, f"person {who}", "at once")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(throw, range(4))) == [False, False, False, True]
    (newest, *_) = switches.history(settings, 1_000)
    assert len(switches.history(settings, 1_000)) == before + 1
    (standing,) = (row for row in switches.standing(settings) if row["name"] == INTAKE)
    assert newest["actor"] == standing["actor"]


@pytest.mark.parametrize("reason", ["", "  ", "a\x1b[31m", "x" * 501])
def test_without_a_word_why_nothing_is_thrown(settings: Settings, reason: str) -> None:
    with pytest.raises(BadConfiguration, match="reason"):
        switches.throw(settings, INTAKE, PAUSED, "ada", reason)
    assert {row["state"] for row in switches.standing(settings)} == {RUNNING, SCORED}


def test_the_api_throws_a_switch_and_shows_it(api: httpx.Client) -> None:
    body = {"state": RULES_ONLY, "reason": "suspicious"}
    answer = api.put("/switches/scoring", json=body)
    assert answer.status_code == 200, answer.text
    assert {name: answer.json()[name] for name in ("name", "state", "actor", "reason")} == {
        "name": SCORING, "actor": "api", **body
    }  # fmt: skip
    api.put("/switches/scoring", json={**body, "reason": "again"})
    told = api.get("/switches").json()
    assert {one["name"]: one["state"] for one in told["switches"]} == {INTAKE: RUNNING, SCORING: RULES_ONLY}
    assert (told["history"][0]["before"], told["history"][0]["reason"]) == (SCORED, "suspicious")
    assert "RULES_ONLY" in {one["code"] for one in api.get("/ready").json()["degraded"]}
