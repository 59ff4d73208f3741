"""All services of the local stack, in the order `vigil status` shows them."""

from feature_repo.settings import Settings
from infra.local import elasticsearch, kafka, ours, postgres, redis
from infra.local.files import Files
from infra.local.plan import Plan
from infra.local.ports import DEFAULTS
from infra.local.service import Service

SERVERS = ("kafka", "postgres", "redis", "elasticsearch", "mlflow")
OURS = ("serving", "api", "stream", "indexer", "lifecycle", "windows")
NAMES = SERVERS + OURS
_BUILDERS = (
    *(kafka.service, postgres.service, redis.service, elasticsearch.service, ours.mlflow),
    *(ours.serving, ours.api, ours.stream, ours.indexer, ours.lifecycle, ours.windows),
)


def plan(settings: Settings) -> Plan:
    """From the ports and secrets that the last start wrote; one of an older build knew fewer names."""
    files = Files(settings.home)
    return Plan(settings, DEFAULTS | files.ports(), files.secrets())


def definitions(settings: Settings) -> dict[str, Service]:
    its_plan = plan(settings)
    return {service.name: service for service in (build(its_plan) for build in _BUILDERS)}
