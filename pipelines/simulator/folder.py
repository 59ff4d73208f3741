"""A simulated history as a folder: history.parquet, truth.parquet and the manifest that makes it again."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from feature_repo.errors import BadConfiguration
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines.parquet_file import written
from pipelines.simulator import days as days_of
from pipelines.simulator import world as worlds
from pipelines.simulator.world import Options, World

VERSION = 2  # of the simulator: moves when the same options give other payments
HISTORY, TRUTH, MANIFEST, PAGE = "history.parquet", "truth.parquet", "manifest.json", "simulation.html"


@dataclass(frozen=True)
class Simulated:
    """What was written."""

    folder: str
    payments: int
    frauds: int
    users: int
    days: int
    seed: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def write(world: World, days: int, out: Path, progress: Callable[[int], None] | None = None) -> Simulated:
    """Days 0 to `days - 1` into `out`. Same options and days: same bytes. `progress` is told each day done."""
    if not 1 <= days <= 20_000:
        raise BadConfiguration(f"days must be between 1 and 20000, not {days}")
    out.mkdir(parents=True, exist_ok=True)
    with (
        written(out / HISTORY, HISTORY_SCHEMA) as history,
        written(out / TRUTH, days_of.TRUTH_SCHEMA) as truth,
    ):
        for day in days_of.stream(world, 0, days):
            history.add(days_of.history(world, day))
            truth.add(days_of.truth(world, day))
            if progress:
                progress(day.day + 1)
    manifest = {
        "simulator": VERSION,
        "options": world.options.as_json(),
        "days": days,
        "payments": history.count,
        "frauds": truth.count,
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return Simulated(str(out), history.count, truth.count, world.options.users, days, world.seed)


def world_of(folder: Path) -> tuple[World, int]:
    """The world a simulated folder came from and the first day after its history.

    Raises BadConfiguration where there is no manifest or another simulator version wrote it.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise BadConfiguration(f"{folder} was not simulated: no {MANIFEST}", remedy="vigil simulate --name NAME")
    manifest = json.loads(path.read_text())
    if manifest.get("simulator") != VERSION:
        raise BadConfiguration(
            f"{path} is of simulator {manifest.get('simulator')}, this is {VERSION}; its payments cannot be continued",
            remedy="vigil simulate --name NAME",
        )
    return worlds.build(Options.from_json(manifest["options"])), int(manifest["days"])


def payments_after(world: World, first_day: int, days: int) -> Iterator[pa.RecordBatch]:
    """HISTORY_SCHEMA batches, one per day: what the same people do next."""
    return (days_of.history(world, day) for day in days_of.stream(world, first_day, days))
