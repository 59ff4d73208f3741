"""The hardware a number was measured on; a number without it means nothing."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Machine:
    cpu: str  # model name
    cores: int  # that this process may use
    memory_gib: float
    system: str
    python: str
    load: float  # average of the last minute, in processes that want a core

    def line(self) -> str:
        """One line to print under a measurement."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, {self.system}, "
            f"Python {self.python}, load {self.load:.1f}"
        )

    def as_dict(self) -> dict[str, str | int | float]:
        return asdict(self)


def describe() -> Machine:
    """The machine we run on, now."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        load=round(psutil.getloadavg()[0], 2),
    )


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
