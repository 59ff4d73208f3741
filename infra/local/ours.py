"""The services of this project, MLflow's server among them, restarted whenever they crash.

Each runs in a folder of its own with nothing else in it: some of them put their working folder on
Python's path, where a folder named like a package would hide it.
"""

import sys
from functools import partial
from pathlib import Path

from infra.local import health, java, postgres
from infra.local.plan import Plan
from infra.local.service import Service


def mlflow(plan: Plan) -> Service:
    """Tracking and registry: one worker, no job runner, artefacts served from a folder of the stack."""
    host, port = plan.address("mlflow").split(":")
    artifacts = plan.home / "mlflow" / "artifacts"
    argv = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1"]
    argv += ["--artifacts-destination", str(artifacts)]
    return Service(
        name="mlflow",
        argv=lambda: argv,
        url=f"http://{plan.address('mlflow')}",
        ports=(plan.ports["mlflow"],),
        check=partial(health.http, f"http://{plan.address('mlflow')}/health"),
        cwd=_own_folder(plan, "mlflow"),
        needs=("postgres",),
        env=partial(
            plan.environment,
            MLFLOW_BACKEND_STORE_URI=_sqlalchemy(postgres.dsn(plan, "vigil_mlflow", "mlflow")),
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
        ),
        prepare=partial(_make_folders, _own_folder(plan, "mlflow"), artifacts),
        ours=True,
    )


def serving(plan: Plan) -> Service:
    """The model service. Live without a champion: a model may be promoted later; without MLflow its last one serves."""
    bind, port = plan.settings.internal_bind, str(plan.ports["serving"])
    argv = [sys.executable, "-m", "bentoml", "serve", "serving.service:VigilService"]
    argv += ["--host", bind, "--port", port]
    folder = _own_folder(plan, "serving")
    return Service(
        name="serving",
        argv=lambda: argv,
        url=f"http://{plan.address('serving')}",
        ports=(plan.ports["serving"],),
        check=partial(health.http, f"http://{plan.address('serving')}/live"),
        ready=partial(health.http, f"http://{plan.address('serving')}/ready"),
        metrics=f"http://{plan.address('serving')}/metrics",
        cwd=folder,
        needs=("redis",),
        wants=("mlflow",),
        env=partial(plan.environment, BENTOML_HOME=str(plan.home / "bentoml"), BENTOML_DO_NOT_TRACK="true"),
        prepare=partial(_make_folders, folder),
        ours=True,
    )


def api(plan: Plan) -> Service:
    bind, port = plan.settings.bind, str(plan.ports["api"])
    argv = [sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory"]
    argv += ["--host", bind, "--port", port, "--no-access-log"]
    argv += ["--timeout-graceful-shutdown", "3"]  # those who follow GET /stream never end by themselves
    return Service(
        name="api",
        argv=lambda: argv,
        url=f"http://{plan.address('api')}",
        ports=(plan.ports["api"],),
        check=partial(health.http, f"http://{plan.address('api')}/live"),
        ready=partial(health.http, f"http://{plan.address('api')}/ready"),
        metrics=f"http://{plan.address('api')}/metrics",
        cwd=_own_folder(plan, "api"),
        needs=("postgres", "elasticsearch"),
        env=plan.environment,
        prepare=partial(_make_folders, _own_folder(plan, "api")),
        ours=True,
    )


def stream(plan: Plan) -> Service:
    """The Spark job. Up when Spark's own page answers; asked to stop, it finishes its batch."""
    folder = _own_folder(plan, "stream")
    return Service(
        name="stream",
        argv=lambda: [sys.executable, "-m", "pipelines.cli", "stream"],
        url=f"http://{plan.address('spark_ui')}",
        ports=(plan.ports["spark_ui"], plan.ports["stream_metrics"]),
        metrics=f"http://{plan.address('stream_metrics')}/metrics",
        check=partial(health.http, f"http://{plan.address('spark_ui')}/api/v1/applications"),
        cwd=folder,
        needs=("kafka", "postgres", "redis", "serving"),
        env=lambda: plan.environment(JAVA_HOME=str(java.find(plan.settings).home)),
        prepare=partial(_make_folders, folder),
        ours=True,
        stop_timeout_s=45,
    )


def indexer(plan: Plan) -> Service:
    return Service(
        name="indexer",
        argv=lambda: [sys.executable, "-m", "pipelines.cli", "index"],
        url="",
        ports=(plan.ports["indexer_metrics"],),
        metrics=f"http://{plan.address('indexer_metrics')}/metrics",
        check=health.running,
        cwd=_own_folder(plan, "indexer"),
        needs=("kafka", "postgres", "elasticsearch"),
        env=plan.environment,
        prepare=partial(_make_folders, _own_folder(plan, "indexer")),
        ours=True,
        settle_s=3.0,
    )


def lifecycle(plan: Plan) -> Service:
    """Gate and aliases on request, labels, daily jobs. Asked to stop, it finishes the request in hand."""
    return Service(
        name="lifecycle",
        argv=lambda: [sys.executable, "-m", "pipelines.cli", "lifecycle"],
        url="",
        ports=(plan.ports["lifecycle_metrics"],),
        metrics=f"http://{plan.address('lifecycle_metrics')}/metrics",
        check=health.running,
        cwd=_own_folder(plan, "lifecycle"),
        needs=("kafka", "postgres", "redis", "mlflow"),
        env=plan.environment,
        prepare=partial(_make_folders, _own_folder(plan, "lifecycle")),
        ours=True,
        stop_timeout_s=45,
        settle_s=3.0,
    )


def windows(plan: Plan) -> Service:
    """Payments over time, by a Spark of its own. Nothing waits for it."""
    folder = _own_folder(plan, "windows")
    return Service(
        name="windows",
        argv=lambda: [sys.executable, "-m", "pipelines.cli", "windows"],
        url="",
        check=health.running,
        cwd=folder,
        needs=("kafka", "postgres"),
        env=lambda: plan.environment(JAVA_HOME=str(java.find(plan.settings).home)),
        prepare=partial(_make_folders, folder),
        ours=True,
        settle_s=3.0,
    )


def _own_folder(plan: Plan, name: str) -> Path:
    return plan.home / "work" / name


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _sqlalchemy(dsn: str) -> str:
    """SQLAlchemy wants its driver named: from 2.1 on it takes a plain address for psycopg 3."""
    return dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
