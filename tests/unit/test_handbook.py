"""The recipes on payments of the Fraud Detection Handbook's kind, by its protocol: what MODELS.md §2 must reach.

Seven days to train, seven skipped while their labels come, seven judged; customers known to be compromised by the day
are not judged. Twice, a week apart; it is the mean that counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.features import NAMES
from feature_repo.settings import Settings
from pipelines.replay import replay
from tests.cases import handbook
from training import boosted, evaluation, recipes
from training.detector import fit_autoencoder

pytestmark = pytest.mark.slow

TRAINED, SKIPPED, JUDGED = 7, 7, 7  # days
WARM_UP = 60  # twice the longest window
FOLDS = 2

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Payments:
    """With what is true of them; `day` counts from the first."""

    x: npt.NDArray[np.float32]
    fraud: Mask
    customer: npt.NDArray[np.int64]
    day: npt.NDArray[np.int64]

    def folds(self) -> Iterator[tuple[Mask, Mask]]:
        """What to train on and what to judge."""
        for first in range(WARM_UP, WARM_UP + FOLDS * JUDGED, JUDGED):
            begin = first + TRAINED + SKIPPED
            judged = np.zeros(len(self.day), bool)
            for today in range(begin, begin + JUDGED):
                told = self.fraud & (self.day >= first) & (self.day < today - SKIPPED)
                judged |= (self.day == today) & ~np.isin(self.customer, self.customer[told])
            yield (self.day >= first) & (self.day < first + TRAINED), judged


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    home = tmp_path_factory.mktemp("home")
    folder = home / "data" / "h"
    folder.mkdir(parents=True)
    handbook.write(folder / "history.parquet", WARM_UP + TRAINED + SKIPPED + FOLDS * JUDGED, seed=1)
    replay(Settings(home=home), "h")
    history, vectors = (pq.read_table(folder / f"{name}.parquet") for name in ("history", "features"))
    assert history["transaction_id"].equals(vectors["transaction_id"])
    customer = history["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    day = (history["event_time"].cast(pa.int64()).to_numpy() - handbook.FIRST_US) // handbook.DAY_US
    x = np.column_stack([vectors[name] for name in NAMES])
    return Payments(x, history["is_fraud"].to_numpy(), customer, day)


def test_the_default_recipe_finds_what_it_must(payments: Payments) -> None:
    found = []
    for train, judged in payments.folds():
        known = train & payments.fraud
        detector = fit_autoencoder(payments.x[train & ~known], recipes.default(), known=payments.x[known])
        score, fraud = detector.score(payments.x[judged]), payments.fraud[judged]
        cards = evaluation.card_precision(score, fraud, payments.customer[judged], payments.day[judged], 100)
        found.append((evaluation.auc(score, fraud), evaluation.average_precision(score, fraud), cards))
    auc, precision, cards = np.mean(found, axis=0)
    assert auc >= 0.855
    assert precision >= 0.40
    assert cards >= 0.240


def test_boosting_is_as_good_as_the_best_published(payments: Payments) -> None:
    found = []
    for train, judged in payments.folds():
        young = np.zeros(train.sum(), bool)
        model = boosted.fit(payments.x[train], payments.fraud[train], young, recipes.boosted())
        found.append(evaluation.average_precision(model.score(payments.x[judged]), payments.fraud[judged]))
    assert np.mean(found) >= 0.687
