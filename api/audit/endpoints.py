"""`GET /audit`."""

from typing import Annotated

from fastapi import Depends, Query

from api.audit.schemas import AuditFilters, AuditPage
from api.audit.service import AuditService
from api.filters import once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope


def router(service: AuditService) -> Router:
    routes = Router(tags=["audit"], dependencies=[Depends(once)])

    @routes.get("/audit", summary="Who changed what", responses=problems(400, 422, 503))
    @needs(Scope.ADMIN)
    def list_audit(query: Annotated[AuditFilters, Query()]) -> AuditPage:
        """Keys, aliases, thresholds, labels, states, dead letters sent again, what retention dropped; newest first."""
        return service.page(query)

    return routes
