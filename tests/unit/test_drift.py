"""Drift: each statistic against a naive computation, who alarms and who does not."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from feature_repo.errors import BadConfiguration
from feature_repo.features import NAMES
from pipelines.drift import report
from pipelines.drift.judge import AS_SERVED, FEATURE, PRECISION, SCORE, Day, Drift, Reading, alarms, alert_rate, drift
from serving import artifact
from serving.artifact import Artifact, Manifest
from serving.reference import MOVING, Histogram
from tests.cases import tables
from training import recipes
from training.data import TrainingSet
from training.train import fit_model

SAID = {"version": "1", "data": "table", "from": "2024-03-01", "to": "2024-03-06", "labels_as_of": "2024-03-13T00:00"}
MOVED = "amount_z"
KEPT = set(MOVING) - {NAMES[-1]}  # that column is constant in the table


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    recipe = recipes.named("default", ["updates=60", "batch_rows=512", "seeds=1", "folds=2", "baselines=false"])
    fitted = fit_model(tables.training_set(), recipe, "m", (tables.FIRST_DAY, tables.FIRST_DAY + timedelta(days=5)))
    path = tmp_path_factory.mktemp("drift") / "model.onnx"
    return artifact.load(path, artifact.save(path, fitted.model, fitted.manifest))


def judged(model: Artifact, rows: TrainingSet) -> Drift:
    return drift(model, rows)


def moved(rows: TrainingSet, from_day: int) -> TrainingSet:
    """Half a unit is added to one feature from that day of the window on."""
    x = rows.x.copy()
    x[rows.day >= rows.day.min() + from_day, rows.columns.index(MOVED)] += 1.0
    return replace(rows, x=x)


def test_the_index_is_that_of_the_formula() -> None:
    bins = Histogram((1.0, 2.0), (10, 20, 30))
    counts = bins.count(np.array([0.5, 1.0, 1.5, 2.0, 9.0, 9.0]))
    assert counts.tolist() == [2, 2, 2]
    naive = sum(
        (2.5 / 7.5 - (ours + 0.5) / 61.5) * np.log((2.5 / 7.5) / ((ours + 0.5) / 61.5)) for ours in (10, 20, 30)
    )
    assert bins.psi(counts) == pytest.approx(naive)


def test_without_drift_the_excess_is_0_on_average_and_spreads_as_said() -> None:
    rng = np.random.default_rng(1)
    bins = Histogram(tuple(np.arange(1, 10) / 10), tuple(rng.multinomial(50_000, np.full(10, 0.1)).tolist()))
    draws = [bins.count(rng.random(2_000)) for _ in range(400)]
    excess = np.array([bins.excess(counts) for counts in draws])
    spread = bins.chance(draws[0])[1]
    assert abs(excess.mean()) < spread / 4
    assert excess.std() == pytest.approx(spread, rel=0.25)


def test_the_reference_survives_the_file_and_counts_every_row(model: Artifact) -> None:
    reference = model.manifest.reference
    assert reference is not None and set(reference.features) == set(model.manifest.columns)
    assert {sum(one.counts) for one in (reference.score, *reference.features.values())} == {6_000}
    assert Manifest.from_json(model.manifest.to_json()) == model.manifest


def test_the_same_kind_of_days_raise_no_alarm(model: Artifact) -> None:
    found = judged(model, tables.training_set(rows=12_000, days=6, seed=5))
    assert found.alarms == [] and found.too_small == []
    assert report.sentences(SAID, found)[-1] == "No alarm."


def test_a_moved_feature_alarms_on_its_second_day_or_sooner(model: Artifact) -> None:
    found = judged(model, moved(tables.training_set(rows=12_000, days=6, seed=5), 3))
    first = next(alarm for alarm in found.alarms if alarm.statistic == FEATURE + MOVED)
    changed = found.days[3].day
    assert changed <= first.day <= changed + timedelta(days=1)
    assert not [alarm for alarm in found.alarms if alarm.day < changed]


def test_what_moves_by_itself_moves_neither_itself_nor_the_score(model: Artifact) -> None:
    """Histories grow by a third, and merchants are twice as risky: nobody's habits changed."""
    rows = tables.training_set(rows=12_000, days=6, seed=5)
    x = rows.x.copy()
    for name in KEPT:
        x[:, rows.columns.index(name)] = 2 * x[:, rows.columns.index(name)] + 3
    found = judged(model, replace(rows, x=x))
    assert not {alarm.statistic for alarm in found.alarms} & {SCORE, AS_SERVED, *(FEATURE + name for name in MOVING)}
    for day in found.days:
        readings = [day.readings[name] for name in (AS_SERVED, *(FEATURE + name for name in KEPT))]
        assert all(
            reading.value is not None and reading.value > 0.2 and reading.strength is None for reading in readings
        )


def test_settled_rows_have_the_references_distribution_and_keep_their_ranks(model: Artifact) -> None:
    reference = model.manifest.reference
    assert reference is not None and set(reference.quantiles) == KEPT
    rows = tables.training_set(rows=12_000, days=6, seed=5)
    place = rows.columns.index("history")
    settled = reference.settled(rows.x * 2 + 1, rows.columns)[:, place]
    assert (np.diff(settled[np.argsort(rows.x[:, place], kind="stable")]) >= 0).all()
    trained = tables.training_set().x[:, place]
    assert np.quantile(settled, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(trained, [0.1, 0.5, 0.9]), abs=0.02)
    ties = reference.settled(np.zeros((4, len(rows.columns)), np.float32), rows.columns)[:, place]
    assert np.unique(ties) == pytest.approx(np.median(trained), abs=0.02)


def test_a_tiny_window_says_how_little_it_saw(model: Artifact) -> None:
    found = judged(model, tables.training_set(rows=60, days=2, seed=5))
    assert found.alarms == [] and len(found.too_small) == 2
    assert "Too little to judge" in " ".join(report.sentences(SAID, found))


def test_alerts_are_judged_against_the_budget() -> None:
    assert alert_rate(50, 10_000, 0.005).strength == 0
    assert (alert_rate(400, 10_000, 0.005).strength or 0) > 1
    assert alert_rate(5, 100, 0.005).strength is None


def test_one_day_is_no_alarm_two_in_a_row_are_and_one_extreme_is() -> None:
    def alarmed(*strengths: float | None) -> list[int]:
        start = date(2024, 3, 1)
        days = [
            Day(start + timedelta(days=place), 500, {SCORE: Reading(0.2, strength, 500)})
            for place, strength in enumerate(strengths)
        ]
        return [(alarm.day - start).days for alarm in alarms(days)]

    assert alarmed(0.2, 1.5, 0.2, 1.5) == []
    assert alarmed(1.5, 1.5, 0.2) == [1]
    assert alarmed(1.5, 0.8, 0.8) == [1]  # together beyond it
    assert alarmed(0.2, 3.5, 0.2) == [1]
    assert alarmed(1.5, None, 1.5) == []


def test_average_precision_waits_for_mature_labels(model: Artifact) -> None:
    rows = tables.training_set(rows=12_000, days=6, seed=5)
    young = replace(rows, too_young=rows.day >= rows.day.min() + 5)
    values = [day.readings[PRECISION].value for day in judged(model, young).days]
    assert values[4] is not None and values[5] is None


def test_a_version_without_a_reference_is_told_so(model: Artifact) -> None:
    rows = tables.training_set()
    with pytest.raises(BadConfiguration, match="looked like in training"):
        drift(replace(model, manifest=replace(model.manifest, reference=None)), rows)


def test_page_and_metrics_hold_every_day(model: Artifact, tmp_path: Path) -> None:
    found = judged(model, tables.training_set(seed=5))
    page = report.page(SAID, found)
    assert "http" not in page and all(day.day.isoformat() in page for day in found.days)
    names = {name for name, *_ in report.metrics(found.days[0])}
    assert {"drift_alert_rate", "drift_score_psi", "drift_psi_amount_z"} <= names
