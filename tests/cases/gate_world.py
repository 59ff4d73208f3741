"""A world small enough to train in a second, in which the gate can be deceived: forty days of payments.

Half of the columns are wild on their own account, as counts and sums of payments are, so that distance alone
says little; a fraud is odd in two of the tame ones, of two mechanisms. Training comes first, then the window.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa

from feature_repo.features import NAMES, WIDTH
from serving import artifact
from serving.artifact import Artifact, Manifest
from tests.cases.tables import CONSTANT, FIRST_DAY, correlated
from training import recipes
from training.data import DAY_US, TrainingSet, Truth
from training.registration import Fitted
from training.train import fit_model

TRAIN_DAYS, WINDOW_DAYS = 16, 16
ROWS_A_DAY = 600
USERS = 1_500
FRAUD = 0.03
SHIFT = 3.5  # by which a fraud's columns are odd, in deviations
AMOUNT = [NAMES.index("amount_z"), NAMES.index("amount_ratio_7d")]  # odd in mechanism odd_amount
PLACE = [NAMES.index("new_location"), NAMES.index("locations_24h")]  # odd in mechanism odd_place
TAME = [*AMOUNT, *PLACE]
SMALL = ("updates=120", "batch_rows=1024", "seeds=1", "alert_budget=0.02", "holdout_share=0.4")
NOW = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC) + timedelta(days=60)


def rows(first_day: int, days: int, seed: int) -> TrainingSet:
    """`days` days from FIRST_DAY + `first_day` on."""
    generator = np.random.default_rng(seed)
    count = days * ROWS_A_DAY
    table = correlated(count, WIDTH, seed)
    table[:, NAMES.index("history")] = np.log1p(generator.integers(0, 200, count))
    table[:, NAMES.index(CONSTANT)] = 0.0
    wild = [column for column in range(1, WIDTH - 1) if column not in TAME and NAMES[column] != "history"]
    table[:, wild[::2]] *= generator.standard_t(2, (count, len(wild[::2])))
    table[:, TAME] = 0.5 * table[:, TAME] + 0.5 * generator.standard_normal((count, len(TAME)))
    table[:, NAMES.index(CONSTANT)] = 0.0
    fraud = generator.random(count) < FRAUD
    odd = fraud & (generator.random(count) < 0.5)
    for columns, chosen in ((AMOUNT, odd), (PLACE, fraud & ~odd)):
        table[np.ix_(chosen, columns)] += SHIFT * (0.6 + generator.exponential(0.4, (chosen.sum(), 2)))
    day = (FIRST_DAY - datetime(1970, 1, 1).date()).days + first_day
    time = np.sort(generator.integers(day * DAY_US, (day + days) * DAY_US, count))
    end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day + days)
    return TrainingSet(
        x=table.astype(np.float32),
        columns=NAMES,
        transaction_id=pa.array([f"{'o' if odd[row] else 'b'}{first_day}_{row}" for row in range(count)]),
        user_id=pa.array([f"user_{user:05d}" for user in generator.integers(0, USERS, count)]),
        event_time=time,
        amount=generator.lognormal(3, 1, count),
        label=fraud,
        label_known=fraud,
        too_young=np.zeros(count, bool),
        reported_share=np.ones(count),
        labels_as_of=end + timedelta(days=7),
        label_delay=timedelta(days=7),
        without_features=0,
    )


def joined(first: TrainingSet, then: TrainingSet) -> TrainingSet:
    """The rows of both, one after the other."""
    arrays = ("x", "event_time", "amount", "label", "label_known", "too_young", "reported_share")
    both = {name: np.concatenate([getattr(first, name), getattr(then, name)]) for name in arrays}
    ids = {
        name: pa.concat_arrays([getattr(first, name), getattr(then, name)]) for name in ("transaction_id", "user_id")
    }
    return replace(first, **both, **ids)


def truth_of(window: TrainingSet) -> Truth:
    fraud = window.transaction_id.filter(pa.array(window.label))
    odd = [name.startswith("o") for name in fraud.to_pylist()]
    mechanism = ["odd_amount" if one else "odd_place" for one in odd]
    reason = ["unusual_amount_for_user" if one else "new_location_for_user" for one in odd]
    return Truth(pa.table({"transaction_id": fraud, "mechanism": mechanism, "reason": reason}))


def fit(trained: TrainingSet, *overrides: str) -> Fitted:
    """A version trained on these rows, window and all; not registered anywhere."""
    days = [datetime(1970, 1, 1).date() + timedelta(days=int(day)) for day in (trained.day.min(), trained.day.max())]
    return fit_model(trained, recipes.named("fast", [*SMALL, *overrides]), "vigil-autoencoder", (days[0], days[1]))


def loaded(fitted: Fitted, folder: Path, version: str = "2", **changes: object) -> Artifact:
    """The version as the registry would give it, with a manifest that says what `changes` say."""
    manifest: Manifest = replace(fitted.manifest, **changes)  # type: ignore[arg-type]  # fields by name
    return written(fitted.model, manifest, folder, version)


def written(model: onnx.ModelProto, manifest: Manifest, folder: Path, version: str = "2") -> Artifact:
    """Saved and loaded again, as the registry would; raises what an unsound artefact raises."""
    path = folder / f"{version}.onnx"
    return artifact.load(path, artifact.save(path, model, manifest), version)
