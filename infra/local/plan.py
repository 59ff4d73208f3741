"""What every server's definition is made from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from feature_repo.settings import Settings, inherited
from infra.local import account, java
from infra.local.account import Account
from infra.local.files import Files
from infra.local.ports import Ports, reached_at
from infra.local.process import MARK

# Each process does its own work on one core; a pool per library would only fight over two of them.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Plan:
    settings: Settings
    ports: Ports
    secrets: dict[str, str]

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def files(self) -> Files:
        return Files(self.home)

    @cached_property
    def account(self) -> Account | None:
        """The account the servers of others run under; ours run as the user who started them."""
        return account.unprivileged()

    @cached_property
    def java(self) -> Path:
        """Raises NoJdk."""
        return java.find(self.settings, self.account).java

    def address(self, name: str) -> str:
        """Where this machine reaches a server."""
        return f"{reached_at(self.settings, name)}:{self.ports[name]}"

    def folder(self, name: str) -> Path:
        """The data folder of one server, made if need be and owned by the servers' account."""
        return account.data_folder(self.home, name, self.account)

    def environment(self, **more: str) -> dict[str, str]:
        """A child's environment: ours, the home it belongs to, few threads, few malloc arenas."""
        own = {"VIGIL_HOME": str(self.home), MARK: str(self.home), "MALLOC_ARENA_MAX": "2"}
        return inherited() | ONE_THREAD | own | more
