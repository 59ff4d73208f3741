"""How fast the autoencoder trains on one core: rows per second, each counted once per pass over it."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipelines.bench.machine import Machine, describe
from training import recipes
from training.network import train

WIDTH = 30  # columns: about the catalogue's
_ROWS = 300_000
_WARM_UPDATES = 3


@dataclass(frozen=True)
class TrainBench:
    """One network of recipe `default`, the rows in memory; a pass over them is an epoch."""

    rows: int
    columns: int
    batch_rows: int
    updates: int
    seconds: float
    device: str
    machine: Machine

    @property
    def per_second(self) -> float:
        """Rows per second and epoch."""
        return self.batch_rows * self.updates / self.seconds

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"rows_per_second": round(self.per_second)}


def bench_train(updates: int = 60, batch_rows: int = 8_192) -> TrainBench:
    """Time so many optimiser steps; the first few are not counted. On a CPU its time, so a busy core hurts less."""
    rows = torch.randn(_ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    clock = time.perf_counter if torch.cuda.is_available() else time.thread_time
    taken = []
    for steps in (_WARM_UPDATES, updates + _WARM_UPDATES):
        recipe = recipes.named("default", [f"updates={steps}", f"batch_rows={batch_rows}"])
        began = clock()
        train(rows, recipe, network=0)
        taken.append(clock() - began)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "one core"
    return TrainBench(_ROWS, WIDTH, batch_rows, updates, round(taken[1] - taken[0], 3), device, describe())
