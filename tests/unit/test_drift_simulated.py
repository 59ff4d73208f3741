"""Drift on the simulator: eight ordinary weeks raise no alarm, a change of regime does within two days."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_repo.settings import Settings
from pipelines.drift.judge import Drift, drift
from pipelines.replay import replay
from pipelines.simulator import folder, world
from pipelines.simulator.world import Options
from serving import artifact
from training import data, recipes
from training.train import fit_model

WARM_UP, TRAINED, WATCHED = 28, 28, 56  # days; histories must be past their first month
CHANGES = 5  # day of the watched window


def watched(home: Path, seed: int, regime: bool) -> tuple[Drift, date]:
    """The report of the days after training, and the first of them."""
    days = WARM_UP + TRAINED + (CHANGES + 3 if regime else WATCHED)
    options = Options(users=1_000, seed=seed, regime_day=WARM_UP + TRAINED + CHANGES if regime else None)
    folder.write(world.build(options), days, home / "data" / "simulated")
    replay(Settings(home=home), "simulated")
    vectors = pq.read_table(home / "data" / "simulated" / "features.parquet")
    history = pq.read_table(home / "data" / "simulated" / "history.parquet")
    delay, first = data.median_label_delay(history), options.start + timedelta(days=WARM_UP)

    def rows(begin: date, end: date) -> data.TrainingSet:
        start, stop = (np.datetime64(day, "us") for day in (begin, end))
        time = history["event_time"].to_numpy()
        chosen = history.filter((time >= start) & (time < stop))
        return data.joined(chosen, vectors, data.midnight(end) + delay, delay)

    begins = first + timedelta(days=TRAINED)
    recipe = recipes.named("default", ["updates=100", "seeds=1", "folds=2", "baselines=false"])
    fitted = fit_model(rows(first, begins), recipe, "m", (first, begins))
    path = home / "model.onnx"
    model = artifact.load(path, artifact.save(path, fitted.model, fitted.manifest))
    later = rows(begins, options.start + timedelta(days=days))
    return drift(model, later), begins


# In the sixth week of seed 2 merchants' risk is such that the scores as served move by a PSI of 0.28, habits unchanged.
@pytest.mark.parametrize(
    ("seed", "regime"),
    [
        (2, False),
        (1, True),
        *(pytest.param(seed, False, marks=pytest.mark.slow) for seed in (1, 3, 4)),
        *(pytest.param(seed, True, marks=pytest.mark.slow) for seed in (2, 3, 4)),
    ],
)
def test_only_a_change_of_regime_alarms_and_within_two_days(tmp_path: Path, seed: int, regime: bool) -> None:
    found, begins = watched(tmp_path, seed, regime)
    assert found.too_small == []
    alarmed = [(alarm.day - begins).days for alarm in found.alarms]
    assert (CHANGES <= min(alarmed) <= CHANGES + 1) if regime else not alarmed
