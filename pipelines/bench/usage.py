"""CPU time and memory of every service, from the process tree."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """Since their start: CPU seconds (user and system) and resident bytes, over a process and all below it."""

    cpu_s: float
    rss: int


def of_tree(pid: int) -> Usage:
    """Usage of one process and all its descendants, those that have ended and were waited for included."""
    cpu, rss = 0.0, 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return Usage(0.0, 0)
    for process in tree:
        try:
            times = process.cpu_times()
            rss += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        cpu += times.user + times.system + times.children_user + times.children_system
    return Usage(cpu, rss)


def of_services(pids: dict[str, int]) -> dict[str, Usage]:
    """Usage by service; `pids` holds each service's first process."""
    return {name: of_tree(pid) for name, pid in pids.items()}


def spent(before: dict[str, Usage], after: dict[str, Usage]) -> dict[str, float]:
    """CPU seconds by service between two looks."""
    return {name: after[name].cpu_s - before[name].cpu_s for name in before if name in after}
