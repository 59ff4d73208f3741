"""CPU time and memory of every service, from the process tree."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """CPU seconds since their start (user and system) and bytes of memory, over a process and all below it."""

    cpu_s: float
    memory: int  # what processes share is counted once, a part for each; where the system does not tell, resident


def of_tree(name: str, pid: int) -> dict[str, Usage]:
    """Usage of one process and all its descendants, those that have ended and were waited for included.

    A service in several languages has one entry for each: `stream (java)`, `stream (python)`.
    """
    found: dict[str, Usage] = {}
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in tree:
        try:
            with process.oneshot():
                kind, times, memory = process.name(), process.cpu_times(), _memory(process)
        except psutil.NoSuchProcess:
            continue
        kind = kind.rstrip("0123456789.")
        before = found.get(kind, Usage(0.0, 0))
        cpu_s = times.user + times.system + times.children_user + times.children_system
        found[kind] = Usage(before.cpu_s + cpu_s, before.memory + memory)
    if len(found) == 1:
        [used] = found.values()
        return {name: used}
    return {f"{name} ({kind})": used for kind, used in found.items()}


def _memory(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
        return int(getattr(found, "pss", found.rss))
    except psutil.AccessDenied:  # another user's
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # its CPU time counts all the same
        return 0


def of_services(pids: dict[str, int]) -> dict[str, Usage]:
    """Usage by service; `pids` holds each service's first process."""
    return {part: used for name, pid in pids.items() for part, used in of_tree(name, pid).items()}


def spent(before: dict[str, Usage], after: dict[str, Usage]) -> dict[str, float]:
    """CPU seconds by service between two looks."""
    return {name: after[name].cpu_s - before[name].cpu_s for name in before if name in after}
