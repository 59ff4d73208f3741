"""The worker's days, and thresholds by budget: what needs no server."""

import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from feature_repo.errors import BadConfiguration, DependencyDown, VigilError
from feature_repo.settings import Settings
from pipelines.gate.report import page
from pipelines.lifecycle import AGAIN_S, Days
from pipelines.threshold import threshold_of
from serving import artifact
from serving.artifact import Manifest
from tests.cases import tiny_model

SETTINGS = Settings()


@pytest.mark.parametrize("error", [VigilError("no"), ValueError("nobody foresaw it")])
def test_a_daily_job_runs_once_a_day_and_its_failure_stops_nobody(error: Exception) -> None:
    done: list[tuple[str, date]] = []
    today = [date(2026, 1, 1)]

    def broken(_: Settings, day: date) -> None:
        done.append(("broken", day))
        raise error

    def sound(_: Settings, day: date) -> None:
        done.append(("sound", day))

    days = Days((broken, sound), lambda: today[0])
    for day in (1, 1, 2):
        today[0] = date(2026, 1, day)
        days.look(SETTINGS)
    assert done == [(name, date(2026, 1, day)) for day in (1, 2) for name in ("broken", "sound")]


def test_a_daily_job_that_found_a_server_away_is_tried_again_soon() -> None:
    tries: list[float] = []
    now = [0.0]

    def away_twice(_: Settings, day: date) -> None:
        tries.append(now[0])
        if len(tries) < 3:
            raise DependencyDown("stream", "payments-0", "has yet to decide")

    days = Days((away_twice,), lambda: date(2026, 1, 1), lambda: now[0])
    for _ in range(100):
        days.look(SETTINGS)
        now[0] += 1
    assert tries == [0, AGAIN_S, 2 * AGAIN_S]


def test_without_daily_jobs_the_part_ends() -> None:
    Days(()).run(SETTINGS, threading.Event())


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    tiny_model.write(tmp_path / "model.onnx")
    known = artifact.load(tmp_path / "model.onnx").manifest
    return replace(known, budget_thresholds=((0.001, 0.9), (0.01, 0.7), (0.1, 0.3)))


def test_a_smaller_budget_has_a_higher_threshold(manifest: Manifest) -> None:
    assert threshold_of(manifest, 0.01) == pytest.approx(0.7)
    assert threshold_of(manifest, 0.001) > threshold_of(manifest, 0.002) > threshold_of(manifest, 0.01)


def test_a_budget_that_was_not_observed_is_refused(manifest: Manifest) -> None:
    with pytest.raises(BadConfiguration, match=r"between 0\.001 and 0\.1"):
        threshold_of(manifest, 0.0001)
    with pytest.raises(BadConfiguration, match="does not say"):
        threshold_of(replace(manifest, budget_thresholds=()), 0.01)


def test_a_manifest_without_budget_thresholds_is_still_read(manifest: Manifest) -> None:
    text = replace(manifest, budget_thresholds=()).to_json().replace('"budget_thresholds": [], ', "")
    assert "budget_thresholds" not in text
    assert Manifest.from_json(text).budget_thresholds == ()
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_page_shows_the_failing_check_first_and_no_markup_of_others() -> None:
    checks = [
        {"name": "artifact", "passed": True, "detail": "sound", "integrity": True},
        {"name": "slices", "passed": False, "detail": "<b>lost</b>", "integrity": False},
    ]
    shown = page({"version": "2", "checks": checks, "attempts": 1, "window": None, "refusals": ["slices"]})
    assert shown.index("slices") < shown.index("artifact")
    assert "<b>lost" not in shown and "Version 2 is refused." in shown
