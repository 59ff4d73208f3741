"""`GET /live`, `/ready`, `/servers` and `/metrics`."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from api.health.schemas import Degraded, Live, Ready, Servers
from api.health.service import HealthService
from api.problems import problems
from api.routes import Router, needs
from api.scopes import PUBLIC, Scope
from feature_repo.errors import Family, VigilError
from feature_repo.problem import MEDIA_TYPE, problem


class NotReady(VigilError):
    code = "NOT_READY"
    family = Family.RETRY
    status = 503

    def __init__(self, down: list[str]) -> None:
        super().__init__(f"missing: {', '.join(down)}")


def router(service: HealthService, registry: CollectorRegistry) -> Router:
    routes = Router(tags=["health"])

    @routes.get("/live", summary="This process answers")
    @needs(PUBLIC)
    async def live() -> Live:
        return Live()

    @routes.get("/ready", summary="Everything needed answers", response_model=Ready, responses=problems(503))
    @needs(PUBLIC)
    async def ready(request: Request) -> Any:
        checks, found = await service.readiness()
        degraded = [Degraded(**one) for one in found]
        down = [name for name, state in checks.items() if state != "up"]
        if not down:
            return Ready(checks=checks, degraded=degraded)
        body = problem(NotReady(down), request.scope["vigil.request_id"])
        also = {"checks": checks, "degraded": [one.model_dump(mode="json") for one in degraded]}
        return JSONResponse({**body, **also}, NotReady.status, {"Retry-After": "1"}, MEDIA_TYPE)

    @routes.get("/servers", summary="Every server, and what is degraded")
    @needs(Scope.READ)
    async def servers() -> Servers:
        """Those without a port of their own are known by what they hold: a connection, a lock, a consumer group."""
        return await service.servers()

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    @needs(Scope.READ)
    def metrics() -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return routes
