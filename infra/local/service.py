"""What a supervised service is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.local.account import Account
from infra.local.health import Check, running


class State(StrEnum):
    DOWN = "down"
    STARTING = "starting"
    UP = "up"
    UNHEALTHY = "unhealthy"  # runs, but does not answer
    ORPHANED = "orphaned"  # runs, but its supervisor does not
    WAITING = "waiting"  # crashed; starts again when its pause is over
    STOPPING = "stopping"
    FAILED = "failed"  # stays down until someone restarts it


def nothing() -> None:
    """For a service with nothing to prepare or finish."""


@dataclass(frozen=True)
class Service:
    """One server: how to start it, how to know it works, what happens when it ends.

    `prepare` runs before each start (make the data folder, write the configuration), `finish` when the
    server first answers (make roles and databases); both must bear being run again. `needs` are the
    services that must be up before this one starts; `wants` are started along with it, but while one of
    them is away it can start all the same. `ours` are restarted when they crash: a crashed database is
    something a person should look at. `ready` tells of a service that is up but cannot yet do its work,
    such as a model service without a champion.
    """

    name: str
    argv: Callable[[], Sequence[str]]
    url: str
    check: Check
    env: Callable[[], Mapping[str, str]]
    cwd: Path
    ports: tuple[int, ...] = ()
    metrics: str = ""  # address of its Prometheus metrics; servers of others have none of this form
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    account: Account | None = None
    ready: Check = running
    prepare: Callable[[], None] = nothing
    finish: Callable[[], None] = nothing
    ours: bool = False
    start_timeout_s: float = 180.0  # a machine with two busy cores needs one of these minutes
    stop_timeout_s: float = 20.0
    stop_signal: int = 15
    settle_s: float = 0.0  # seconds a process must live before it counts as up


def in_order(services: Mapping[str, Service], names: Sequence[str]) -> list[str]:
    """`names` and all they need or want, each after those."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        for need in (*services[name].needs, *services[name].wants):
            visit(need)
        if name not in ordered:
            ordered.append(name)

    for name in services:
        if name in names:
            visit(name)
    return ordered
