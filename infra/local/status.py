"""How the services of a stack are, asked now."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import sleep
from typing import Any

from feature_repo.settings import Settings
from infra.local import services
from infra.local.files import Files
from infra.local.process import Identity
from infra.local.service import Service, State


@dataclass(frozen=True)
class ServiceStatus:
    """`state` is `up` when the service answers. `detail` says why not, or what is missing still."""

    name: str
    state: str
    pid: int | None
    url: str
    detail: str = ""
    wanted: bool = False
    metrics: str = ""

    @property
    def degraded(self) -> bool:
        """Should run, and does not do its work."""
        return self.wanted and (self.state != State.UP or bool(self.detail))


def look(settings: Settings, *, supervised: bool) -> list[ServiceStatus]:
    """One status per service. `supervised`: whether the stack's supervisor runs."""
    own_files = Files(settings.home)
    if not own_files.ports():
        return [ServiceStatus(name, State.DOWN, None, "") for name in services.NAMES]
    records = own_files.state().get("services", {})
    wanted = own_files.wanted() if supervised else {}
    definitions = services.definitions(settings)

    def one(name: str) -> ServiceStatus:
        return _status(definitions[name], records.get(name, {}), name in wanted, supervised)

    with ThreadPoolExecutor(len(services.NAMES)) as pool:
        return list(pool.map(one, services.NAMES))


def _again(service: Service) -> str | None:
    """A second look: a busy machine or a page that is just being mounted is not an unhealthy service."""
    sleep(0.5)
    return service.check()


def _status(service: Service, record: dict[str, Any], wanted: bool, supervised: bool) -> ServiceStatus:
    identity = Identity.parse(record.get("process") or {})
    runs = identity is not None and identity.process() is not None
    state, detail = record.get("state", State.DOWN), record.get("detail", "")
    if not supervised:
        state, detail = (State.ORPHANED, "its supervisor was killed") if runs else (State.DOWN, "")
    elif state == State.UP and not runs:
        state, detail = State.DOWN, "ended just now"
    elif state == State.UP:
        complaint = service.check() and _again(service)
        state, detail = (State.UNHEALTHY, complaint) if complaint else (state, service.ready() or "")
    pid = identity.pid if identity and runs else None
    return ServiceStatus(service.name, str(state), pid, service.url, detail, wanted, service.metrics)
