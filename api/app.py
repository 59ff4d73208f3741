"""The query service: `uvicorn api.app:create_app --factory`.

One package per noun: endpoints (HTTP), service (what happens), repository (the store), schemas (words).
Here they are put together with real stores; nothing is opened before the first request needs it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from api import errors
from api.alerts import endpoints as alerts
from api.alerts.repository import AlertTopic
from api.alerts.service import AlertService
from api.audit import endpoints as audit
from api.audit.repository import AuditRepository
from api.audit.service import AuditService
from api.console import app as console
from api.cursor import Cursors, secret_key
from api.detect import endpoints as detect
from api.detect.repository import ModelService
from api.detect.service import DetectService
from api.explain import endpoints as explain
from api.explain.service import ExplainService
from api.gate import Gate
from api.health import endpoints as health
from api.health import repository as checks
from api.health.service import HealthService
from api.ingest import endpoints as ingest
from api.ingest.repository import AnswerRepository, KnownPayments
from api.ingest.service import IngestService
from api.keys import endpoints as keys
from api.keys.repository import KeyRepository
from api.keys.ring import KeyRing
from api.keys.service import KeyService
from api.labels import endpoints as labels
from api.labels.repository import LabelRepository, LabelTopic
from api.labels.service import LabelService
from api.limits import Counters, RateLimiter
from api.metrics import endpoints as metrics
from api.metrics.repository import WindowRepository
from api.metrics.service import WindowService
from api.models import endpoints as versions
from api.models.repository import RegistryRepository, RequestRepository, TrialRepository
from api.models.service import ModelsService
from api.openapi import describe
from api.postgres import Database
from api.prepared import PreparedDatabase
from api.search import endpoints as search
from api.search.repository import SearchRepository
from api.search.service import SearchService
from api.stats import endpoints as stats
from api.stats.repository import Offsets, StatsRepository
from api.stats.service import StatsService
from api.switches import endpoints as switches
from api.switches.repository import SwitchRepository
from api.switches.service import SwitchService
from api.traffic import Traffic, log_to_stdout
from api.transactions import endpoints as transactions
from api.transactions.repository import TransactionRepository
from api.transactions.service import TransactionService
from api.users import endpoints as users
from api.users.repository import UserRepository
from api.users.service import UserService
from feature_repo.recorder import Recorder
from feature_repo.settings import Settings, load

CURSOR_KEY = "secrets/cursor.key"  # below VIGIL_HOME


def now() -> datetime:
    return datetime.now(UTC)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application over the stores of `settings` (default: this process's)."""
    log_to_stdout()
    settings = settings or load()
    database = Database(settings.postgres_reader_dsn)
    prepared = PreparedDatabase(settings.postgres_reader_dsn)
    writing = Database(settings.postgres_dsn, writes=True)
    registered = RegistryRepository(settings.mlflow_url)
    documents = SearchRepository(settings.elasticsearch_url)
    models = ModelService(settings.serving_url, settings.model_timeout_s)
    recorder = Recorder(settings, "vigil-api")
    following = AlertService(AlertTopic(settings.kafka_bootstrap))
    offsets = Offsets(settings.kafka_bootstrap)
    cursors = Cursors(secret_key(settings.home / CURSOR_KEY))
    kafka = checks.Kafka(settings.kafka_bootstrap)
    readiness = HealthService(
        {
            "postgres": checks.postgres(database),
            "elasticsearch": checks.http(f"{settings.elasticsearch_url}/_cluster/health"),
            "serving": checks.http(f"{settings.serving_url}/ready"),
        },
        checks.conditions(database),
        {
            "kafka": kafka.server,
            "redis": checks.store(settings.redis_url),
            "mlflow": checks.http(f"{settings.mlflow_url}/health"),
            "stream": checks.session(database, "vigil-stream"),
            "indexer": kafka.indexer,
            "lifecycle": checks.lifecycle(database),
            **({"windows": checks.session(database, "vigil-windows")} if settings.windows else {}),
        },
    )
    keep = KeyRepository(writing)
    ring = KeyRing(keep)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        noting = asyncio.create_task(ring.keep())
        yield
        following.close()
        offsets.close()
        noting.cancel()
        await ring.flush()
        await models.close()
        recorder.close()
        documents.close()
        registered.close()
        writing.close()
        await prepared.close()
        database.close()

    app = FastAPI(
        title="Vigil",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # see openapi.page
        redoc_url=None,
    )
    counters = Counters(settings.redis_url)
    app.state.gate = Gate(
        ring,
        RateLimiter(counters, "key", settings.requests_per_key),
        RateLimiter(counters, "address", settings.requests_per_address),
        keys_wanted=settings.keys_wanted,
        max_requests=settings.requests_at_once,
    )
    decisions = TransactionRepository(database, prepared)
    asked = RequestRepository(database, writing)
    served = ModelsService(registered, asked, TrialRepository(database), models.threshold_of, settings.model_name, now)
    taken = LabelService(LabelRepository(database, writing), LabelTopic(recorder), now, settings.future_tolerance_s)
    for routes in (
        explain.router(ExplainService(decisions, models.explain)),  # before ids that hold a slash
        transactions.router(TransactionService(decisions, cursors, models.artifact_of, now)),
        ingest.router(IngestService(settings, recorder, AnswerRepository(writing), KnownPayments(database), now)),
        detect.router(DetectService(models)),
        search.router(SearchService(documents, decisions, cursors, now)),
        alerts.router(following),
        users.router(UserService(decisions, UserRepository(database), models.activity, now)),
        stats.router(StatsService(StatsRepository(database), offsets, settings.topic, now)),
        metrics.router(WindowService(WindowRepository(database), cursors)),
        versions.router(served),
        labels.router(taken),
        switches.router(SwitchService(SwitchRepository(database, writing))),
        keys.router(KeyService(keep, now)),
        audit.router(AuditService(AuditRepository(database), cursors)),
        health.router(readiness, registry),
    ):
        app.router.routes += routes.routes  # include_router asks router by router, which takes FastAPI 0.165 longer
    app.router.routes.append(console.create(app))
    errors.install(app)
    describe(app)
    app.add_middleware(Traffic, registry=registry)
    return app
