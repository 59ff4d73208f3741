"""Drift and retraining with the real MLflow, Feast and PostgreSQL, on a data set made for it."""

import uuid
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import BadConfiguration
from feature_repo.settings import Settings
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import daily
from pipelines.drift.judge import FEATURE
from pipelines.drift.run import watch
from pipelines.promote import promote
from pipelines.retrain import retrain
from pipelines.versions import CHALLENGER, Versions
from tests.cases import data_sets, tables
from tests.cases.tables import FIRST_DAY
from training.data import TrainingSet, midnight
from training.train import train

TRAINED, DAYS = 8, 20
CHANGED = 12  # day from which a feature is half a deviation off
MOVED = "amount_z"
SMALL = ("updates=60", "batch_rows=512", "seeds=1", "folds=2", "baselines=false", "alert_budget=0.02")
NOW = midnight(FIRST_DAY + timedelta(days=DAYS))


def rows(changed: int) -> TrainingSet:
    made = tables.training_set(rows=24_000, days=DAYS, seed=1)
    x = made.x.copy()
    x[made.day >= made.day.min() + changed, made.columns.index(MOVED)] += 1.0
    return replace(made, x=x)


def data_set(settings: Settings, changed: int) -> str:
    """As import and replay leave one, with every column of a history."""
    name = data_sets.write(settings, rows(changed))
    path = settings.home / "data" / name / "history.parquet"
    history = pq.read_table(path)
    count = len(history)
    columns = {"arrival_time": history["event_time"], **{one: history[one] for one in history.column_names}}
    constant = {"merchant": "shop", "location": "town", "payment_method": "card"}
    columns |= {one: pa.array([value] * count) for one, value in constant.items()}
    whole = [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in HISTORY_SCHEMA]
    pq.write_table(
        pa.Table.from_arrays(
            [pa.array(c.to_pylist(), f.type) for c, f in zip(whole, HISTORY_SCHEMA, strict=True)], schema=HISTORY_SCHEMA
        ),
        path,
    )
    return name


@pytest.fixture(scope="module")
def line(stack: Settings) -> Settings:
    return stack.model_copy(update={"model_name": f"line-{uuid.uuid4().hex[:8]}"})


@pytest.fixture(scope="module")
def calm(line: Settings) -> str:
    return data_set(line, DAYS)


@pytest.fixture(scope="module")
def changed(line: Settings) -> str:
    return data_set(line, CHANGED)


@pytest.fixture(scope="module")
def champion(line: Settings, calm: str) -> str:
    version = train(line, calm, FIRST_DAY, FIRST_DAY + timedelta(days=TRAINED - 1), recipe="default", overrides=SMALL)
    promote(line, version, "test", override="twelve mature days only")
    return version


def test_without_a_name_the_data_set_of_the_training_is_judged_and_named(
    line: Settings, calm: str, champion: str
) -> None:
    watched = watch(line, "champion", None, None, None, NOW)
    assert (watched.said["data"], watched.said["version"]) == (calm, champion)
    assert watched.drift.alarms == [] and len(watched.drift.days) == DAYS - TRAINED


def test_an_alarm_is_in_mlflow_as_page_as_numbers_and_by_day(line: Settings, changed: str, champion: str) -> None:
    watched = watch(line, "champion", changed, None, None, NOW)
    assert watched.said["data"] == changed and watched.said["alarm"]
    first = next(alarm for alarm in watched.drift.alarms if alarm.statistic == FEATURE + MOVED)
    assert 0 <= (first.day - FIRST_DAY).days - CHANGED <= 1

    import mlflow

    client = mlflow.MlflowClient(line.mlflow_url)
    run_id = Versions(line).run_of(champion)
    assert {file.path for file in client.list_artifacts(run_id, "drift")} == {"drift/drift.html", "drift/drift.json"}
    logged = client.get_metric_history(run_id, f"drift_{FEATURE}{MOVED}")
    told = {one.step: one.value for one in logged}
    epoch = datetime(1970, 1, 1).date()
    assert told[(first.day - epoch).days] == pytest.approx(first.value)


def test_what_cannot_be_judged_is_said(line: Settings, champion: str) -> None:
    with pytest.raises(BadConfiguration, match="no data set nothing"):
        watch(line, "champion", "nothing", None, None, NOW)
    with pytest.raises(BadConfiguration, match="drift comes after"):
        watch(line, "champion", None, FIRST_DAY, None, NOW)


def test_drift_trains_a_challenger_like_the_champion_and_calm_does_not(
    line: Settings, calm: str, changed: str, champion: str
) -> None:
    assert retrain(line, calm, "ada", NOW).version is None
    assert Versions(line).aliases() == {"champion": champion}
    done = retrain(line, changed, "ada", NOW)
    assert any(MOVED in reason for reason in done.why)
    assert Versions(line).aliases() == {"champion": champion, CHALLENGER: done.version}
    made = Versions(line).load(str(done.version)).manifest
    was = Versions(line).load(champion).manifest
    assert (made.recipe, made.alert_budget, made.data_name) == (was.recipe, was.alert_budget, changed)
    last = FIRST_DAY + timedelta(days=DAYS - data_sets.LABEL_DELAY_DAYS - 1)
    assert (made.train_from, made.train_to) == ((last - timedelta(days=TRAINED - 1)).isoformat(), last.isoformat())

    import mlflow

    client = mlflow.MlflowClient(line.mlflow_url)
    new, old = (client.get_run(Versions(line).run_of(version)).data.params for version in (done.version, champion))
    assert {key: new[key] for key in ("updates", "batch_rows", "seeds")} == {
        key: old[key] for key in ("updates", "batch_rows", "seeds")
    }
    assert [f.path for f in client.list_artifacts(Versions(line).run_of(str(done.version))) if "retrain" in f.path]


def test_without_newer_mature_days_nothing_can_be_trained(line: Settings, calm: str, champion: str) -> None:
    early = midnight(FIRST_DAY + timedelta(days=TRAINED + data_sets.LABEL_DELAY_DAYS))
    with pytest.raises(BadConfiguration, match="mature labels"):
        retrain(line, calm, "ada", early, force=True)


def test_the_daily_job_goes_by_the_setting_and_trains_once_a_week(
    line: Settings, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a topic of which nothing was decided, so that beginning ends in an error."""
    nothing = line.model_copy(update={"topic": "unheard-of"})
    weekly = nothing.model_copy(update={"retrain": "weekly"})
    daily.retrain(weekly, FIRST_DAY)  # the champion is of this minute
    monkeypatch.setattr(daily, "WEEK", timedelta(0))
    daily.retrain(nothing, FIRST_DAY)
    with pytest.raises(BadConfiguration, match="decided no payment"):
        daily.retrain(weekly, FIRST_DAY)
