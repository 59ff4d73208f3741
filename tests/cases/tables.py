"""Numeric tables with planted anomalies, and a small training set of them: no simulator, no files."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.features import NAMES, WIDTH
from training.data import DAY_US, TrainingSet

PLANTED = 5  # the column that is odd in planted rows
CONSTANT = "new_device"  # in training_set
FIRST_DAY = date(2024, 3, 1)


def correlated(rows: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    """Rows of a few common causes with heavy-tailed noise; column 0 is nearly always 0, the last constant."""
    generator = np.random.default_rng(seed)
    causes = generator.standard_normal((rows, 4))
    mixture = np.random.default_rng(99).standard_normal((4, width)) * 0.5
    table = causes @ mixture + 0.3 * generator.standard_t(5, (rows, width))
    table[:, 0] = generator.random(rows) < 0.01
    table[:, -1] = 1.0
    return table.astype(np.float32)


def with_planted(table: npt.NDArray[np.float32], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Make column PLANTED impossible in a share of the rows, in place; returns which."""
    planted = np.random.default_rng(seed).random(len(table)) < share
    sign = np.where(np.random.default_rng(seed + 1).random(planted.sum()) < 0.5, -1, 1)
    table[planted, PLANTED] += 8 * sign
    return planted


def training_set(rows: int = 6_000, days: int = 6, seed: int = 1) -> TrainingSet:
    """A window whose frauds are planted and known, with columns of the real catalogue."""
    table = correlated(rows, WIDTH, seed)
    table[:, NAMES.index("history")] = 3.0 + np.random.default_rng(seed + 100).random(rows)
    table[:, NAMES.index(CONSTANT)] = 0.0  # data without devices
    fraud = with_planted(table, 0.01, seed)
    start = int(datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC).timestamp()) * 1_000_000
    time = np.sort(np.random.default_rng(seed).integers(start, start + days * DAY_US, rows))
    end = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC) + timedelta(days=days)
    return TrainingSet(
        x=table,
        columns=NAMES,
        transaction_id=pa.array([f"tx_{row:06d}" for row in range(rows)]),
        user_id=pa.array([f"user_{row % 500:04d}" for row in range(rows)]),
        event_time=time,
        amount=np.random.default_rng(seed).lognormal(3, 1, rows),
        label=fraud,
        label_known=fraud,
        too_young=np.zeros(rows, bool),
        reported_share=np.ones(rows),
        labels_as_of=end + timedelta(days=7),
        label_delay=timedelta(days=7),
        without_features=0,
    )
